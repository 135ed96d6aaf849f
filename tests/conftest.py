"""What every test runs under: two devices, and no silent broadcasting between ranks."""

import jax

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
