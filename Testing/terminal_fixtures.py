"""A case and a result on disk, for the tests of the command line, which name this file as a plugin of pytest."""

from __future__ import annotations

from pathlib import Path

import pytest
from phantoms import Phantom
from terminal import TINY, coarse_body, run, write_case


@pytest.fixture(scope="module")
def a_body() -> Phantom:
    """A phantom on a coarse grid."""
    return coarse_body()


@pytest.fixture(scope="module")
def a_folder(tmp_path_factory: pytest.TempPathFactory, a_body: Phantom) -> Path:
    """A folder with scan.nii.gz, organ.nii.gz and lesion.nii.gz; not to be changed."""
    return write_case(tmp_path_factory.mktemp("data"), a_body)


@pytest.fixture(scope="module")
def a_written_result(a_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `segment` made of the scan within the organ; not to be changed."""
    output = tmp_path_factory.mktemp("results") / "result"
    organ = ("--organ", "liver", "--organ-mask", a_folder / "organ.nii.gz")
    done = run("segment", a_folder / "scan.nii.gz", "-o", output, *organ, *TINY, "--seed", "3", "--quiet")
    assert done.exit_code == 0, done.stderr
    assert done.output == ""
    return output
