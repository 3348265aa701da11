"""Build the sdist and the wheel, and run the tests against the installed wheel, away from here.

The wheel goes into an environment of its own that borrows what is installed in this one, so that
nothing is downloaded. The tests come from the sdist with the four source folders taken out: what
they import can only be the wheel, and a file that the sdist or the wheel lacks shows up. twine
looks over the metadata of both.

    python tools/wheel_check.py [pytest arguments]     (without any: -q -m "not slow")
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from configparser import ConfigParser
from pathlib import Path

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str | Path, cwd: Path, quiet: bool = False) -> None:
    """Run a command in ``cwd``; stop here with its exit status when it fails.

    With ``quiet`` its output is shown only then.
    """
    # Neither the user's nor this environment's paths may lead back to the sources.
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    output = subprocess.PIPE if quiet else None
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env,
        check=False,
        text=True,
        stdout=output,
        stderr=subprocess.STDOUT if quiet else None,
    )
    if done.returncode:
        print(done.stdout or "", end="", file=sys.stderr)
        print(f"wheel check failed: {' '.join(str(part) for part in command)}", file=sys.stderr)
        sys.exit(done.returncode)


def folders() -> dict[str, str]:
    """Return the source folder of each importable package, as setup.cfg maps them."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = config["options"]["package_dir"].strip().splitlines()
    return dict([part.strip() for part in line.split("=")] for line in lines)


def expected() -> set[str]:
    """Return the names that the wheel must hold: each module, and the mark that it is typed."""
    return {
        f"{name.replace('.', '/')}/{path.relative_to(ROOT / folder).as_posix()}"
        for name, folder in folders().items()
        for path in (ROOT / folder).rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }


def main(arguments: list[str]) -> None:
    """Build, compare with the sources, install elsewhere and test."""
    with tempfile.TemporaryDirectory(prefix="leyden-wheel-") as folder:
        work = Path(folder)
        # build makes the wheel from the sdist, so what the sdist lacks the wheel lacks too.
        build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", work, ROOT]
        run(*build, cwd=work, quiet=True)
        (wheel,) = work.glob("*.whl")
        (sdist,) = work.glob("*.tar.gz")

        # Metadata that a package index would take, the readme as its page included.
        run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist, cwd=work, quiet=True)

        held = set(zipfile.ZipFile(wheel).namelist())
        missing = sorted(expected() - held)
        foreign = sorted(
            name for name in held if not name.startswith("leyden/") and ".dist-info/" not in name
        )
        if missing or foreign:
            sys.exit(
                f"{wheel.name} lacks {missing} and holds {foreign} outside leyden/: "
                "see package_dir and package_data in setup.cfg"
            )

        env = work / "env"
        venv.create(env, with_pip=True, symlinks=True)
        python = env / "bin" / "python"
        run(python, "-m", "pip", "install", "-qq", "--no-deps", "--no-index", wheel, cwd=work)
        # After pip, which would otherwise find the editable install there and replace it. A folder
        # named in a .pth file is searched, but its own .pth files (the editable hook) are not read.
        site = env / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
        (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")

        with tarfile.open(sdist) as archive:
            archive.extractall(work, filter="data")
        tests = work / sdist.name.removesuffix(".tar.gz")
        for source in folders().values():
            shutil.rmtree(tests / source)
        check = f"import leyden, sys; sys.exit(not leyden.__file__.startswith({str(env)!r}))"
        run(python, "-c", check, cwd=tests)
        run(python, "-m", "pytest", *(arguments or ["-q", "-m", "not slow"]), cwd=tests)
        print(f"{wheel.name}: {len(held)} files, its tests pass outside the source tree")


if __name__ == "__main__":
    main(sys.argv[1:])
