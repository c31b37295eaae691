"""A fake pip for a virtual environment without one: pip/__main__.py, and patch_ng/__main__.py too.

`wheel` uses the wheel in FAKE_WHEEL as its result, `install WHEEL` unpacks it, NVIDIA's wheels are an empty
directory, all else does nothing. Each call is a line of FAKE_LOG, with CMake's arguments."""

import os
import pathlib
import shutil
import sys
import sysconfig
import tarfile
import zipfile

command, *rest = sys.argv[1:] or [""]
with open(os.environ["FAKE_LOG"], "a") as log:
    print(command, os.environ.get("CMAKE_ARGS", "") if command == "wheel" else "", file=log)
if command == "download":
    directory = pathlib.Path(rest[rest.index("-d") + 1])
    version = os.environ["FAKE_VERSION"]
    sources = directory / f"llama_cpp_python-{version}"
    sources.mkdir()
    with tarfile.open(directory / f"llama_cpp_python-{version}.tar.gz", "w:gz") as archive:
        archive.add(sources, sources.name)
elif command == "wheel":
    for n in range(1, 11):
        print(f"[{n}/10] Building CXX object")
    to = pathlib.Path(rest[rest.index("-w") + 1])
    to.mkdir(parents=True)
    shutil.copy(os.environ["FAKE_WHEEL"], to)
elif command == "install" and rest[-1].endswith("cuda.txt"):
    pathlib.Path(sysconfig.get_path("platlib"), "nvidia", "cu13", "lib").mkdir(parents=True)
elif command == "install" and rest[-1].endswith(".whl"):
    zipfile.ZipFile(rest[-1]).extractall(sysconfig.get_path("platlib"))
