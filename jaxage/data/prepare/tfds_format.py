"""Write and read faces as a TFDS dataset in array_record files, without TensorFlow."""

import contextlib
import errno
import hashlib
import io
import math
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from jaxage.data.importers.importer import Importer
from jaxage.data.parallel import in_order
from jaxage.data.prepare.checked import CheckedFaces
from jaxage.data.records import SPLITS, DataError
from jaxage.types import Split
from jaxage.utils.text import quoted

GENDERS = ("female", "male", "unknown")
_SHARD_BYTES = 256 * 2**20


class FacesBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[misc, call-arg]
    """Three splits in the order of the source. Encoded images keep their bytes.

    Features: `image` (encoded; decoded to uint8, 3 channels but for CMYK and alpha), `age` (float32, years), `identity`
    (a hash, "" unknown), `gender` (female, male, unknown), `face_score` (float32, NaN unknown), `path`.

    TFDS would hold a whole split in memory to sort it, and would need TensorFlow beyond 1 GB. So shards are written
    here, row by row, with TFDS's own encoding and names.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, faces: CheckedFaces, importer: Importer[Any], data_dir: Path) -> None:
        self.name = importer.tfds_name
        self._faces, self._importer = faces, importer
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        about = self._faces.about
        funnel = "; ".join(f"{step['step']} {step['kept']}" for step in about["funnel"] + about["images"])
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"Faces for age regression, prepared by jaxage. Kept after each criterion: {funnel}.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "age": np.float32,
                    "identity": tfds.features.Text(),
                    "gender": tfds.features.ClassLabel(names=GENDERS),
                    "face_score": np.float32,
                    "path": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "age"),
            homepage=self._importer.homepage,
            citation=self._importer.citation,
            license=self._importer.terms,
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(about),
        )

    def _split_generators(self, dl_manager: Any) -> dict[Split, Iterator[tuple[int, dict[str, Any]]]]:
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: Split) -> Iterator[tuple[int, dict[str, Any]]]:
        for row in self._faces.records.rows_of(split).tolist():
            yield row, self._example(row)

    def _example(self, row: int) -> dict[str, Any]:
        faces, records = self._faces, self._faces.records
        path = str(records.path[row])
        data = faces.read(path)
        if hashlib.sha256(data).hexdigest() != faces.sha256[row]:
            raise DataError(f"{quoted(path)} has changed since it was checked: start again")
        return {
            "image": data,
            "age": records.age[row],
            "identity": str(records.identity[row]),
            "gender": str(records.gender[row]) or "unknown",
            "face_score": faces.face_score[row],
            "path": path,
        }

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        infos = []
        # TFDS's own serialize_example puts the fields of an example in another order in every process
        serializer = tfds.core.ExampleSerializer(self.info.features.get_serialized_info())

        def serialize(row: int) -> bytes:
            example = self.info.features.encode_example(self._example(row))
            data: bytes = serializer.get_tf_example(example).SerializeToString(deterministic=True)
            return data

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for split in SPLITS:
                template = self._get_filename_template(split)
                rows = self._faces.records.rows_of(split)
                sizes = self._faces.sizes[rows]
                shards = max(1, math.ceil(sizes.sum() / _SHARD_BYTES))
                lengths = [len(part) for part in np.array_split(sizes, shards)]
                with contextlib.closing(in_order(pool, serialize, rows.tolist(), f"writing {split}")) as examples:
                    for shard, length in enumerate(lengths):
                        path = template.sharded_filepath(shard_index=shard, num_shards=shards)
                        _write_shard(str(path), islice(examples, length))
                infos.append(tfds.core.SplitInfo(split, lengths, int(sizes.sum()), template))
        self.info.set_splits(tfds.core.splits.SplitDict(infos))


def _write_shard(path: str, examples: Iterable[bytes]) -> None:
    try:
        writer = ArrayRecordWriter(path, "group_size:1")
        for data in examples:
            writer.write(data)
        writer.close()
    except RuntimeError as error:  # array_record's, for a full disk and the like
        reason = str(error).partition(";")[0]
        full = [code for code in (errno.ENOSPC, errno.EDQUOT) if os.strerror(code) in reason]
        raise OSError(full[0] if full else errno.EIO, reason) from error


def write_dataset(importer: Importer[Any], faces: CheckedFaces, folder: Path) -> Path:
    """Write the dataset below an empty folder; the folder that holds it.

    Args:
        importer: Names the dataset, its citation and its terms.
        faces: What is written.
        folder: Where TFDS makes its own folders.

    Raises:
        DataError: if an image has changed since it was checked.
        OSError: if the files cannot be written.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        made = FacesBuilder(faces, importer, folder)
        made.download_and_prepare()
    return Path(made.data_path)


def open_dataset(folder: Path) -> dict[Split, Any]:
    """For each split, its examples with encoded images, by their index: `sources["test"][3]["image"]`.

    Safe to call from many threads.

    Raises:
        DataError: if the TFDS files of the folder are missing or damaged.
    """
    try:
        builder = tfds.builder_from_directory(folder)
        decoders = {"image": tfds.decode.SkipDecoding()}
        return {split: builder.as_data_source(split, decoders=decoders) for split in SPLITS}
    except Exception as error:  # TFDS raises a dozen kinds for broken files
        raise DataError(f"{folder}: its TFDS files cannot be read ({error}): prepare it again") from error
