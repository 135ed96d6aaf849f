"""Small trees of drawn faces, laid out as datasets are distributed."""

import io
import tarfile
import zipfile
from pathlib import Path

from PIL import Image

from jaxage.data.synthetic.faces import synthetic_faces

UTKFACE = {
    "UTKFace/30_1_2_20170116174525125.jpg.chip.jpg": (30, "", "female", ""),
    "UTKFace/61_1_20170109142408075.jpg.chip.jpg": (61, "", "", ""),
    "UTKFace/28_1_2_201701161846515488.jpg.chip.jpg": (28, "", "female", ""),
    "UTKFace/24_0_1_20170116220224657 .jpg.chip.jpg": (24, "", "male", ""),
    "UTKFace/55_0_0_20170116232725357jpg.chip.jpg": (55, "", "male", ""),
    "part1/53__0_20170116184028385.jpg": (53, "", "", ""),
    "part1/61_3_20170109150557335.jpg": (61, "", "", ""),
    "part1/44_1_4_20170116235150272.pg": (44, "", "female", ""),
    "part2/116_0_0_20170112213500903.jpg": None,
}
AGEDB = {
    "AgeDB/0_MariaCallas_35_f.jpg": (35, "MariaCallas", "female", ""),
    "AgeDB/9_Jean_Luc_Godard_76_m.jpg": (76, "Jean_Luc_Godard", "male", ""),
    "AgeDB/readme.txt": None,
}
FGNET = {
    "FGNET/images/001A43b.JPG": (43, "001", "", ""),
    "FGNET/images/082a00.jpg": (0, "082", "", ""),
    "FGNET/points/001a43b.pts": None,
    "FGNET/points/082a00.pts": None,
    "FGNET/Data_files/facial_features.txt": None,
}
AFAD = {
    "AFAD-Full/15/111/638660-1.jpg": (15, "638660", "male", ""),
    "AFAD-Full/72/112/109318-0.jpg": (72, "109318", "female", ""),
    "AFAD-Full/72/112/Thumbs.db": None,
}
MORPH = {
    "Images/009055_1M54.JPG": (54, "009055", "male", ""),
    "Images/055829_0F77.jpg": (77, "055829", "female", ""),
    "MORPH_2008_nonCommercial.csv": None,
}
FOLDER = {
    "train/30/a.jpg": (30, "", "", "train"),
    "train/030/b.PNG": (30, "", "", "train"),
    "val/7/c.jpg": (7, "", "", "validation"),
    "test/64/d.jpg": (64, "", "", "test"),
    "test/64/notes.txt": None,
    "test/101/e.jpg": None,
}
LAYOUTS = {"utkface": UTKFACE, "agedb": AGEDB, "fgnet": FGNET, "afad": AFAD, "morph": MORPH, "folder": FOLDER}

APPA_REAL = {
    "train": "000000.jpg,36,4.75,1.66,4\n000001.jpg,40,55.1,5.2,51\n",
    "valid": "004113.jpg,39,8.9,1.88,9\n",
    "test": "005613.jpg,37,34.4,4.0,38\n",
}
IMDB_CLEAN = {
    "train": "00/nm0000100_rm1_1955-1-6_2003.jpg,48,M,1,2,3,4,0,0,0\n"
    "01/nm0000001_rm2_1899-5-10_1968.jpg,69,M,1,2,3,4,0,0,0\n"
    "03/nm0000003_rm4_1934-9-28_1974.jpg,39,F,1,2,3,4,0,0,0\n",
    "valid": "02/nm0000002_rm3_1924-9-16_1974.jpg,49,F,1,2,3,4,0,0,0\n",
    "test": "03/nm0000003_rm4_1934-9-28_1974.jpg,39,F,1,2,3,4,0,0,0\n",
}


IMDB_CROP = (
    "imdb.mat",
    "00/nm0000100_rm1_1955-1-6_2003.jpg",
    "01/nm0000001_rm2_1899-5-10_1968.jpg",
    "02/nm0000002_rm3_1924-9-16_1974.jpg",
)
WIKI_CROP = ("wiki/00/10000217_1981-05-05_2009.jpg", "wiki/17/10000548_1925-04-04_1964.jpg")


def tree(folder: Path, paths: list[str]) -> Path:
    """Different faces under these paths; files that are no images hold text."""
    images, _ = synthetic_faces(max(1, len(paths)), 48, seed=5)
    for path, image in zip(paths, images, strict=False):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix in (".txt", ".pts", ".csv", ".db", ".mat"):
            file.write_text("x")
            continue
        data = io.BytesIO()
        Image.fromarray(image).save(data, "PNG")
        file.write_bytes(data.getvalue())
    return folder


def appa_real(folder: Path) -> Path:
    """APPA-REAL as it is unpacked."""
    root = folder / "appa-real-release"
    header = "file_name,num_ratings,apparent_age_avg,apparent_age_std,real_age\n"
    names = [f"{split}/{line[:10]}" for split, rows in APPA_REAL.items() for line in rows.splitlines()]
    tree(root, [name + ending for name in names for ending in ("", "_face.jpg")])
    for split, rows in APPA_REAL.items():
        (root / f"gt_avg_{split}.csv").write_text(header + rows)
    return folder


def imdb_clean(folder: Path) -> Path:
    """IMDB-CLEAN's tables, and the crops of its images."""
    header = "filename,age,gender,x_min,y_min,x_max,y_max,head_roll,head_yaw,head_pitch\n"
    (folder / "csvs").mkdir(parents=True)
    for split, rows in IMDB_CLEAN.items():
        (folder / "csvs" / f"imdb_{split}_new.csv").write_text(header + rows)
        tree(folder / "imdb_crop", [line.split(",")[0] for line in rows.splitlines()])
    return folder


def as_tar_gz(folder: Path) -> Path:
    """The folder in a tar.gz beside it."""
    with tarfile.open(folder.with_suffix(".tar.gz"), "w:gz") as archive:
        archive.add(folder, folder.name)
    return folder.with_suffix(".tar.gz")


def as_zip(folder: Path) -> Path:
    """The folder in a zip beside it."""
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))
    return folder.with_suffix(".zip")


def as_folder(folder: Path) -> Path:
    """The folder itself."""
    return folder
