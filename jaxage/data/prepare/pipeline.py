"""From raw faces to a dataset that trains at full speed: chosen, checked, split, packed, every choice written down."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from jaxage.data.decode import decode_image, strict_warnings
from jaxage.data.files import Read, image_root, open_source, path_fault
from jaxage.data.importers.csv_file import read_csv
from jaxage.data.importers.filters import Criteria, Step, funnel, funnel_table
from jaxage.data.importers.imdb_wiki import Collection, Metadata, parse_metadata
from jaxage.data.importers.imdb_wiki_files import open_crops
from jaxage.data.prepare.duplicates import copies, join, near_pairs
from jaxage.data.prepare.options import Options
from jaxage.data.prepare.output import is_prepared, making, put
from jaxage.data.prepare.tfds_format import CsvFaces, Faces, FacesBuilder, ImdbCrop, WikiCrop, write_dataset
from jaxage.data.prepare.verify import STEPS, InvalidImage, ValidImage, verify_images
from jaxage.data.prepared import COLUMNS, MANIFEST, QUARANTINE, TABLE, table_rows
from jaxage.data.records import SPLITS, DataError, Records, listed, make_records
from jaxage.data.splits import assign_splits, leakage, require_splits
from jaxage.report.contact_sheet import contact_sheet
from jaxage.report.plots import age_histograms
from jaxage.report.tables import write_csv
from jaxage.types import Log
from jaxage.utils.files import write_json

_SHOWN, _SHOWN_SIZE = 48, 128


class _Source(NamedTuple):
    """Rows that are wanted, how to read their images, and what the manifest says of where they came from."""

    records: Records
    face_score: np.ndarray
    read: Read
    about: dict[str, Any]
    builder: type[FacesBuilder]


def prepare_crops(
    collection: Collection,
    root: Path,
    criteria: Criteria,
    options: Options,
    metadata_only: bool = False,
    log: Log = print,
) -> Path:
    """Prepare IMDB-WIKI's crops (see `open_crops`) that meet the criteria; the folder that holds them then.

    It is what `tfds.builder_from_directory` reads: see `tfds_format`. Beside that it has `faces.csv` (a line
    per image, SHA-256 included), `quarantine.csv` (every image that is not used, and why), `ages.png`, `sample.png`
    and `manifest.json`: `source_sha256`, `funnel` and `images` (kept and dropped at each step, of the metadata and of
    the images), `age_formula`, `splits`, `leakage`, and all settings. It appears when it is whole, or not at all.

    With `metadata_only` no image is read, and the folder has `manifest.json` alone.

    Raises DataError for metadata that cannot be used, criteria that leave a split empty, more bad images than
    `options.max_bad`, and a folder that holds something else.
    """
    name = f"{collection}_crop"
    out = (options.out or (root if root.is_dir() else root.parent) / f"{name}-prepared").resolve()
    with open_crops(root, collection) as (where, mat, read):
        about: dict[str, Any] = {
            "name": name,
            "source": where,
            "source_sha256": hashlib.sha256(mat).hexdigest(),
            "age_formula": criteria.age_formula,
            "settings": _settings(options) | asdict(criteria),
        }
        if is_prepared(out, about, log):
            return out
        metadata = parse_metadata(mat, where, collection)
        kept, steps = funnel(metadata, criteria, options.seed)
        rows = np.flatnonzero(kept)
        if not len(rows):
            log(funnel_table(steps))
            raise DataError(f"{where}: no record meets the criteria: lower --min-face-score or widen the ages")
        about["funnel"] = [step._asdict() for step in steps]
        builder = ImdbCrop if collection == "imdb" else WikiCrop
        scores = metadata.face_score[rows].astype(np.float32)
        source = _Source(_wanted(metadata, rows, criteria), scores, read, about, builder)
        if not metadata_only:
            return _prepare(source, steps, options, out, log)
    log(funnel_table(steps))
    records = _split(source.records, options)
    with making(out):
        if is_prepared(out, about, log):
            return out
        out.mkdir(exist_ok=True)
        write_json(out / MANIFEST, about | {"images": [], "split": options.split, **_splits(records)})
    log(f"written: {out / MANIFEST}; no image was looked at")
    return out


def prepare_csv(file: Path, options: Options, log: Log = print) -> Path:
    """Prepare the faces that a CSV lists (see `read_csv`) as `prepare_crops` does; splits that it gives are kept."""
    out = (options.out or file.parent / f"{file.stem}-prepared").resolve()
    records, root = read_csv(file), image_root(file)
    steps = [Step("records", len(records), 0)]
    about: dict[str, Any] = {
        "name": file.stem,
        "source": str(file),
        "source_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "age_formula": "given",
        "settings": _settings(options),
    }
    if is_prepared(out, about, log):
        return out
    about["funnel"] = [step._asdict() for step in steps]
    with open_source(root) as read:
        source = _Source(records, np.full(len(records), np.nan, np.float32), read, about, CsvFaces)
        return _prepare(source, steps, options, out, log)


def _settings(options: Options) -> dict[str, Any]:
    return {name: value for name, value in asdict(options).items() if name != "out"}


def _wanted(metadata: Metadata, rows: np.ndarray, criteria: Criteria) -> Records:
    paths = metadata.path[rows].tolist()
    gender = metadata.gender[rows]
    return make_records(
        [path if path_fault(path) else str(PurePosixPath(path)) for path in paths],
        metadata.ages(criteria.age_formula)[rows].astype(float).tolist(),
        metadata.identity[rows].tolist(),
        gender=np.select([gender == 0, gender == 1], ["female", "male"], "").tolist(),
    )


def _prepare(source: _Source, steps: list[Step], options: Options, out: Path, log: Log) -> Path:
    with making(out) as work, ThreadPoolExecutor(os.cpu_count()) as pool:
        if is_prepared(out, source.about, log):
            return out
        log(funnel_table(steps))
        findings = verify_images(source.read, source.records.path.tolist(), options.min_side, pool)
        findings = _without_copies(source.records, findings)
        faults = [finding for finding in findings if isinstance(finding, InvalidImage)]
        image_steps = _image_steps(len(findings), faults)
        log(funnel_table(image_steps))
        _refuse_too_many(faults, len(findings), source, options, out)
        faces = _divided(source, findings, image_steps, options, pool)
        put(_packed(faces, source.builder, faults, work), out)
    counts = ", ".join(f"{count:,} {split}" for split, count in faces.about["splits"].items())
    near = faces.about["near_duplicates"]["pairs"]
    log(f"{counts}; {near:,} pairs of near-duplicates; {_seen(faces.about['leakage'])}")
    log(f"written: {out}; go on with train --data {out}")
    return out


def _refuse_too_many(faults: list[InvalidImage], count: int, source: _Source, options: Options, out: Path) -> None:
    """Raises DataError, and leaves the list of faults, if too many images are bad; copies are not."""
    bad = [fault for fault in faults if fault.step != STEPS[-1]]
    if len(bad) > options.max_bad * count:
        out.mkdir(exist_ok=True)
        _write_quarantine(out, faults)
        raise DataError(
            f"{source.about['source']}: {len(bad)} of {count} images cannot be used; mend them, or allow a larger "
            f"share than --max-bad {options.max_bad:g}; all of them are in {out / QUARANTINE}\n"
            + listed([f"{fault.path}: {fault.reason}" for fault in bad])
        )


def _write_quarantine(folder: Path, faults: list[InvalidImage]) -> None:
    write_csv(folder / QUARANTINE, ("path", "reason"), ((fault.path, fault.reason) for fault in faults))


def _divided(
    source: _Source,
    findings: list[ValidImage | InvalidImage],
    image_steps: list[Step],
    options: Options,
    pool: ThreadPoolExecutor,
) -> Faces:
    """The sound images: near-duplicates joined to one person, splits decided, people anonymous."""
    sound = [finding for finding in findings if isinstance(finding, ValidImage)]
    rows = [row for row, finding in enumerate(findings) if isinstance(finding, ValidImage)]
    records = source.records.take(rows)
    pairs = near_pairs(np.asarray([found.fingerprint for found in sound], np.uint64).reshape(-1, 2), pool)
    joined = join(records.identity.tolist(), records.path.tolist(), pairs)
    records = _split(replace(records, identity=np.asarray(joined, str)), options)
    records = replace(records, identity=np.asarray([_anonymous(name) for name in joined], str))
    about = source.about | {
        "images": [step._asdict() for step in image_steps],
        "near_duplicates": {
            "pairs": len(pairs),
            "images": len(np.unique(pairs)),
            "pairs_of_other_age": int((np.diff(records.age[pairs]) != 0).sum()),
        },
        "split": "given" if (source.records.split != "").any() else options.split,
        **_splits(records),
    }
    digests, sizes = [found.sha256 for found in sound], np.asarray([found.size for found in sound], np.int64)
    return Faces(records, source.face_score[rows], digests, sizes, source.read, about)


def _packed(faces: Faces, builder: type[FacesBuilder], faults: list[InvalidImage], work: Path) -> Path:
    """A folder below `work` with all that belongs to the dataset."""
    folder, records = write_dataset(builder, faces, work / "tfds"), faces.records
    age_histograms(folder / "ages.png", {split: records.age[records.rows_of(split)] for split in SPLITS})
    _show(folder / "sample.png", faces)
    _write_quarantine(folder, faults)
    write_csv(folder / TABLE, COLUMNS, table_rows(faces))
    table_sha256 = hashlib.sha256((folder / TABLE).read_bytes()).hexdigest()
    write_json(folder / MANIFEST, faces.about | {"table_sha256": table_sha256})
    return folder


def _without_copies(records: Records, findings: list[ValidImage | InvalidImage]) -> list[ValidImage | InvalidImage]:
    rows = [row for row, finding in enumerate(findings) if isinstance(finding, ValidImage)]
    found = [finding.sha256 for finding in findings if isinstance(finding, ValidImage)]
    reasons = copies(found, records.path[rows].tolist(), records.age[rows].tolist())
    left = list(findings)
    for index, reason in reasons.items():
        left[rows[index]] = InvalidImage(str(records.path[rows[index]]), STEPS[-1], reason)
    return left


def _image_steps(count: int, faults: list[InvalidImage]) -> list[Step]:
    steps = []
    for name in STEPS:
        dropped = sum(fault.step == name for fault in faults)
        count -= dropped
        steps.append(Step(name, count, dropped))
    return steps


def _split(records: Records, options: Options) -> Records:
    if (records.split != "").any():
        require_splits(records)
        return records
    return assign_splits(records, options.split, options.seed, options.ratios())


def _splits(records: Records) -> dict[str, Any]:
    counts = {split: len(records.rows_of(split)) for split in SPLITS}
    return {"splits": counts, "leakage": leakage(records)}


def _seen(leaks: dict[str, Any]) -> str:
    if not leaks["test_images_known"]:
        return "no identities in test"
    known, seen = leaks["test_images_known"], leaks["test_images_seen"]
    return f"of {known:,} test images with an identity {seen:,} show someone seen in training"


def _anonymous(identity: str) -> str:
    return hashlib.blake2b(identity.encode(), digest_size=8).hexdigest() if identity else ""


def _show(path: Path, faces: Faces) -> None:
    """A contact sheet of faces of all ages, the youngest first."""
    ages = faces.records.age
    order = np.argsort(ages, kind="stable")
    shown = order[np.linspace(0, len(order) - 1, min(_SHOWN, len(order))).astype(int)]
    with strict_warnings():
        images = [decode_image(faces.read(str(faces.records.path[row])), _SHOWN_SIZE) for row in shown]
    contact_sheet(path, np.stack(images), [f"{ages[row]:g}" for row in shown], columns=8)
