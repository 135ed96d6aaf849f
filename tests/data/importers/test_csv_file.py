import csv
import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxage.data.importers.csv_file import read_csv
from jaxage.data.records import DataError, Records


def read(folder: Path, text: str | bytes) -> Records:
    path = folder / "faces.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_csv(path)


def fault_of(folder: Path, text: str | bytes) -> str:
    with pytest.raises(DataError) as caught:
        read(folder, text)
    message = str(caught.value)
    assert "faces.csv" in message
    return message


def test_all_columns(tmp_path: Path) -> None:
    records = read(
        tmp_path,
        "gender,age,path,split,identity\nm,31.5,a/1.jpg,train,ann\nf,0,b 2.jpg,Val,ann\n,100,c.jpg,test,\n",
    )
    assert records.path.tolist() == ["a/1.jpg", "b 2.jpg", "c.jpg"]
    assert records.age.tolist() == [31.5, 0, 100]
    assert records.age.dtype == "float32"
    assert records.identity.tolist() == ["ann", "ann", ""]
    assert records.split.tolist() == ["train", "validation", "test"]


def test_further_columns_of_few_values_tell_groups_apart(tmp_path: Path) -> None:
    rows = [f"{i}.jpg,{i},{'AB'[i % 2]},{i},same,{'' if i else 'unknown'},0.{i}" for i in range(30)]
    records = read(tmp_path, "\n".join(["path,age,Site,number,constant,empty,face_score", *rows]))
    assert {name: column[:3].tolist() for name, column in records.labels.items()} == {"site": ["A", "B", "A"]}
    assert records.take([1, 2]).labels["site"].tolist() == ["B", "A"]


def test_two_columns_are_enough(tmp_path: Path) -> None:
    records = read(tmp_path, "path,age\na.jpg,1\nb.jpg,2\n")
    assert records.identity.tolist() == ["", ""]
    assert records.split.tolist() == ["", ""]


def test_a_split_column_without_values_counts_as_none(tmp_path: Path) -> None:
    assert read(tmp_path, "path,age,split\na.jpg,1,\nb.jpg,2, \n").split.tolist() == ["", ""]


@pytest.mark.parametrize("name", ["validation", "val", "valid", "dev", " DEV "])
def test_names_of_validation(tmp_path: Path, name: str) -> None:
    records = read(tmp_path, f"path,age,split\na.jpg,1,train\nb.jpg,2,{name}\nc.jpg,2,test\n")
    assert records.split[1] == "validation"


@pytest.mark.parametrize(("columns", "identity"), [("group", "g"), ("identity", "g"), ("group,identity", "i")])
def test_group_stands_in_for_identity(tmp_path: Path, columns: str, identity: str) -> None:
    values = "g,i" if "," in columns else "g"
    assert read(tmp_path, f"path,age,{columns}\na.jpg,1,{values}\n").identity.tolist() == [identity]


def test_what_spreadsheets_write(tmp_path: Path) -> None:
    text = b'\xef\xbb\xbfPath, Age \r\n\r\n"a, b.jpg",1\r\n   \r\nb.jpg, 2 \r\n,,\r\n\r\n'
    records = read(tmp_path, text)
    assert records.path.tolist() == ["a, b.jpg", "b.jpg"]
    assert records.age.tolist() == [1, 2]
    assert read(tmp_path, "path,age\ra.jpg,1\rb.jpg,2").path.tolist() == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize(
    "text",
    [
        "path;age;identity\na.jpg;1.5;x\n b.jpg ;2;n/a\n",
        "sep=;\r\npath;age;identity\r\na.jpg;1.5;x\r\nb.jpg;2;None\r\n",
        "path\tage\tidentity\na.jpg\t1.5\tx\nb.jpg\t2\tNaN\n",
        "path|age|identity\na.jpg|1.5e0|x\nb.jpg|2| \n",
        'path, age, identity\n"a.jpg", "1.5", " x"\n"b.jpg", "+2.", "-1"\n',
        "path,age,identity\na.jpg,1.5,x,\nb.jpg,2,Unknown,,\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_one_table_in_many_forms(tmp_path: Path, text: str, encoding: str) -> None:
    records = read(tmp_path, text.encode(encoding))
    assert records.path.tolist() == ["a.jpg", "b.jpg"]
    assert records.age.tolist() == [1.5, 2]
    assert records.identity.tolist() == ["x", ""]


names = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\:"), min_size=1).filter(
    lambda name: name.strip(" .") and name.isprintable()
)


@given(st.lists(st.tuples(names, st.floats(0, 100, width=32)), min_size=1, unique_by=lambda row: row[0].strip()))
def test_what_is_written_comes_back(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, float]]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([("path", "age"), *((f"./x//{name}", age) for name, age in rows)])
    records = read(tmp_path_factory.mktemp("csv"), text.getvalue())
    assert records.path.tolist() == [f"x/{name}".rstrip() for name, _ in rows]
    assert records.age.tolist() == [age for _, age in rows]


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("a.jpg,old", "line 3: age 'old' is not a number"),
        ("a.jpg,5_1", "line 3: age '5_1' is not a number"),
        ("a.jpg,\u0665\u0661", "line 3: age '\u0665\u0661' is not a number"),
        ("a.jpg,0x1F", "line 3: age '0x1F' is not a number"),
        ("a.jpg,", "line 3: age '' is empty"),
        ("a.jpg,nan", "line 3: age 'nan' is not a number"),
        ("a.jpg,-1", "line 3: age '-1' lies outside 0-100"),
        ("a.jpg,inf", "line 3: age 'inf' is not a number"),
        ("https://example.org/a.jpg,5", "is an address: download the image"),
        ("a.jpg,100.5", "line 3: age '100.5' lies outside 0-100"),
        ('a.jpg,"23,5"', "line 3: age '23,5' is not a number: write a point"),
        (",5", "line 3: path '' is empty"),
        ("/etc/a.jpg,5", "line 3: path '/etc/a.jpg' is absolute"),
        ("C:/a.jpg,5", "line 3: path 'C:/a.jpg' is absolute"),
        ("x/../../a.jpg,5", "leads upwards by .."),
        ("x\\a.jpg,5", "holds a backslash"),
        ("a\0.jpg,5", "holds a NUL character"),
        ("fine.jpg,5", "lines 2, 3: the same path 'fine.jpg'"),
        ("./fine.jpg,5", "lines 2, 3: the same path 'fine.jpg'"),
        ("a,b.jpg,5", "line 3: 3 fields, but the header has 2"),
        ("a.jpg", "line 3: 1 fields, but the header has 2"),
    ],
)
def test_faults_of_a_row(tmp_path: Path, row: str, fault: str) -> None:
    message = fault_of(tmp_path, f"path,age\nfine.jpg,5\n{row}\nalso.jpg,6\n")
    assert fault in message
    assert "1 fault;" in message


def test_all_faults_at_once_ten_shown(tmp_path: Path) -> None:
    rows = [f"{i}.jpg,{'x' if i % 2 else 7}" for i in range(30)]
    message = fault_of(tmp_path, "\n".join(["path,age", *rows, "0.jpg,5"]))
    assert "16 faults" in message
    assert message.count("is not a number") == 10
    assert "line 21:" in message
    assert "line 23:" not in message
    assert "and 6 more" in message


def test_line_numbers_count_blank_lines_and_broken_cells(tmp_path: Path) -> None:
    message = fault_of(tmp_path, 'path,age,note\n\na.jpg,1,"two\nlines"\n\nb.jpg,x,\n')
    assert "line 6: age 'x'" in message


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is empty: its first line must name the columns"),
        ("\n\n", "is empty"),
        ("path,age\n", "has a header but no rows"),
        ("file,age\na.jpg,1\n", "no column path among 'file, age'"),
        ("path age\na.jpg 1\n", "no column path and no column age among 'path age'"),
        (b"PK\x03\x04workbook", "is a workbook or a zip archive: save the table as CSV"),
        (b"\0" * 257 + b"ustar", "is a tar archive: give the CSV"),
        ('[{"path": "a.jpg"}]', "is JSON: save the table as CSV"),
        (" <html>404</html>", "is an HTML or XML page: download"),
        ("path,age,path\na.jpg,1,b.jpg\n", "the header has path more than once"),
        ("path,age\na\xe9.jpg,1\n".encode("latin-1"), "line 2 is not UTF-8"),
        ("path,age\n".encode("utf-16-le"), "no column path"),
        ('path,age\na.jpg,1\n"b.jpg,2\nc.jpg,3\n', "the record that starts on line 3 is not CSV"),
    ],
)
def test_faults_of_the_file(tmp_path: Path, text: str | bytes, fault: str) -> None:
    assert fault in fault_of(tmp_path, text)


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir])
def test_no_file(tmp_path: Path, make: object) -> None:
    path = tmp_path / "faces.csv"
    make(path)  # type: ignore[operator]
    with pytest.raises(DataError, match=r"faces\.csv' cannot be read"):
        read_csv(path)


@pytest.mark.parametrize(
    ("splits", "fault"),
    [
        (["train", "validation", "holdout"], "line 4: split 'holdout' is none of train, validation, test"),
        (["train", "", "test"], "split is given for 2 rows and empty in 1, the first of them line 3"),
    ],
)
def test_faults_of_the_splits(tmp_path: Path, splits: list[str], fault: str) -> None:
    rows = "\n".join(f"{i}.jpg,1,{split}" for i, split in enumerate(splits))
    assert fault in fault_of(tmp_path, f"path,age,split\n{rows}\n")


def test_utkface() -> None:
    if "JAXAGE_TEST_DATA" not in os.environ:
        pytest.skip("set JAXAGE_TEST_DATA to the folder with utkface.csv")
    records = read_csv(Path(os.environ["JAXAGE_TEST_DATA"], "utkface.csv"))
    assert [len(records.rows_of(split)) for split in ("train", "validation", "test")] == [13870, 4612, 4608]
    people = [set(records.identity[records.split == split]) for split in ("train", "validation", "test")]
    assert sum(map(len, people)) == len(set.union(*people))
    assert (records.age.min(), records.age.max()) == (1, 100)
