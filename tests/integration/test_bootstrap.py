"""./bootstrap, with a small project and wheels made here: no network, the same script."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

#: The command of the made-up package: tells what it was called with.
INV = """#!/bin/sh
printf '%s|' "$PWD" "$VIRTUAL_ENV" "$@"
"""


def make_wheel(folder: Path, name: str, version: str, scripts: dict[str, str] | None = None) -> None:
    """Write a wheel by hand, as small as pip takes it."""
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{name}-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{name}-{version}.dist-info/WHEEL": (
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
    }
    for script, text in (scripts or {}).items():
        files[f"{name}-{version}.data/scripts/{script}"] = text
    files[f"{name}-{version}.dist-info/RECORD"] = "".join(f"{file},,\n" for file in files)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for file, text in files.items():
            info = zipfile.ZipInfo(file)
            info.external_attr = (0o100755 if ".data/scripts/" in file else 0o100644) << 16
            wheel.writestr(info, text)


class Project:
    """A checkout with the real bootstrap, in a folder whose name has spaces, that anyone may read."""

    def __init__(self, folder: Path, bootstrap: Path) -> None:
        self.folder = folder
        self.wheels = folder / "wheels"
        self.wheels.mkdir(parents=True)
        make_wheel(self.wheels, "alpha_one", "1.0", {"inv": INV, "pytest": INV})
        make_wheel(self.wheels, "alpha_one", "2.0", {"inv": INV, "pytest": INV})
        make_wheel(self.wheels, "beta", "1.0")
        self.require("alpha_one==1.0  # the command", "beta==1.0")
        shutil.copy(bootstrap, folder)
        self.environment = {
            **os.environ,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": self.wheels.as_uri(),
            "PIP_NO_CACHE_DIR": "1",
            "TMPDIR": str(folder),  # what a killed pip leaves
        }

    def require(self, *lines: str) -> None:
        """Write requirements.txt."""
        (self.folder / "requirements.txt").write_text("# made-up\n\n" + "".join(f"{line}\n" for line in lines))

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """Start bootstrap in a process group of its own."""
        return subprocess.Popen(
            [self.folder / "bootstrap", *argv],
            env=self.environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(
        self, *argv: str, cwd: Path | None = None, stdin: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run bootstrap to its end."""
        return subprocess.run(
            [self.folder / "bootstrap", *argv],
            cwd=cwd or self.folder,
            env={**self.environment, **environment},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )

    def versions(self) -> str:
        """What is installed, as `name==version` lines, without pip and setuptools."""
        return self.run("python", "-m", "pip", "freeze", "--disable-pip-version-check").stdout


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder below a parent that other users may enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="roomful bootstrap "))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def prepared(place: Path, checkout: Path) -> Project:
    """A project after its first ./bootstrap; tests may only use it."""
    project = Project(place / "prepared", checkout / "bootstrap")
    first = project.run("python", "-c", "print('ran')")
    assert (first.returncode, first.stdout) == (0, "ran\n"), first.stderr
    said = first.stderr.splitlines()
    assert said[0].startswith("bootstrap: making .venv with Python 3.")
    assert said[1:] == ["bootstrap: installing 2 pinned packages", "bootstrap: ready"]
    return project


@pytest.fixture
def project(tmp_path: Path, checkout: Path) -> Project:
    """A project that was never prepared."""
    return Project(tmp_path / "with spaces", checkout / "bootstrap")


def test_the_second_call_is_silent_and_quick(prepared: Project) -> None:
    seconds = []
    for _ in range(5):
        begin = time.monotonic()
        again = prepared.run("true")
        seconds.append(time.monotonic() - begin)
        assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert min(seconds) < 0.25


def test_the_command_gets_its_arguments_input_and_folder(prepared: Project) -> None:
    words = ["two words", "", "*", "$HOME", "it's", "--", "-h"]
    program = "import os, sys; print(os.getcwd(), sys.argv[1:], sys.stdin.read(), sys.prefix)"
    elsewhere = prepared.folder / "wheels"
    ran = prepared.run("python", "-c", program, *words, cwd=elsewhere, stdin="input")
    assert ran.stdout == f"{elsewhere} {words} input {prepared.folder / '.venv'}\n"


def test_the_exit_code_is_the_commands(prepared: Project) -> None:
    assert prepared.run("sh", "-c", "exit 7").returncode == 7
    assert prepared.run("no-such-command").returncode == 127


@pytest.mark.parametrize("folder", ["wheels", "."], ids=["in a folder of the checkout", "at its top"])
def test_inside_the_checkout_inv_is_left_alone(prepared: Project, folder: str) -> None:
    where = (prepared.folder / folder).resolve()
    ran = prepared.run("inv", "deploy", cwd=where)
    assert ran.stdout == f"{where}|{prepared.folder / '.venv'}|deploy|"


def test_outside_the_checkout_inv_still_finds_its_tasks(prepared: Project, tmp_path: Path) -> None:
    ran = prepared.run("inv", "submit", "tasks.txt", cwd=tmp_path)
    venv = prepared.folder / ".venv"
    assert ran.stdout == f"{tmp_path}|{venv}|--search-root|{prepared.folder}|submit|tasks.txt|"


def test_outside_the_checkout_pytest_runs_at_its_top(prepared: Project, tmp_path: Path) -> None:
    ran = prepared.run("pytest", "-x", cwd=tmp_path)
    assert ran.stdout == f"{prepared.folder}|{prepared.folder / '.venv'}|-x|"


def test_a_link_to_it_works(prepared: Project, tmp_path: Path) -> None:
    link = tmp_path / "roomful"
    link.symlink_to(prepared.folder / "bootstrap")
    ran = subprocess.run([link, "python", "-c", "import beta; print(beta.version)"], capture_output=True, text=True)
    assert ran.stdout == "1.0\n", ran.stderr


def test_modules_of_the_checkout_are_importable_anywhere(prepared: Project, tmp_path: Path) -> None:
    (prepared.folder / "roomful.py").write_text("here = True\n")
    ran = prepared.run("python", "-c", "import roomful; print(roomful.here)", cwd=tmp_path)
    assert ran.stdout == "True\n", ran.stderr


def test_help_prepares_nothing(project: Project) -> None:
    shown = project.run("--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("usage: ./bootstrap COMMAND")
    assert not (project.folder / ".venv").exists()


def test_without_a_command_it_only_prepares(prepared: Project) -> None:
    shown = prepared.run()
    assert shown.returncode == 0
    assert shown.stdout == prepared.run("--help").stdout


def test_changed_requirements_are_followed_exactly(project: Project) -> None:
    assert project.versions() == "alpha_one==1.0\nbeta==1.0\n"
    config = project.folder / ".venv" / "pyvenv.cfg"
    made = config.stat().st_mtime_ns

    project.require("alpha-one==2.0")
    assert project.versions() == "alpha_one==2.0\n"
    assert config.stat().st_mtime_ns == made, "what runs in .venv meanwhile would have lost it"

    project.require("alpha-one==3.0")
    failed = project.run("true")
    assert failed.returncode == 2
    assert "No matching distribution found for alpha-one==3.0" in failed.stderr
    assert failed.stderr.endswith("/bootstrap again when that is mended\n")
    assert not (project.folder / ".venv" / "stamp").exists(), "what is half done would count as done"

    project.require("beta==1.0")
    assert project.versions() == "beta==1.0\n"


def test_a_killed_first_run_is_repaired_by_one_of_the_next(project: Project) -> None:
    killed = project.start("true")
    assert killed.stderr is not None
    for line in killed.stderr:
        if "installing" in line:
            break
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not (project.folder / ".venv" / "stamp").exists()

    both = [project.start("python", "-c", "import alpha_one, beta") for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted(text.count("making .venv") for text in said) == [0, 1], said


def test_a_moved_checkout_gets_a_new_environment(project: Project) -> None:
    """The old one's scripts hold the old path; here its stamp does, and pip is not asked for anything."""
    venv = project.folder / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to("/usr/bin/python3")
    requirements = (project.folder / "requirements.txt").read_text()
    version = subprocess.run([venv / "bin" / "python", "-V"], capture_output=True, text=True, check=True).stdout
    (venv / "stamp").write_text(f"{project.folder}\n{version}{requirements}")
    assert project.run("true", ROOMFUL_PYTHON="/bin/false").returncode == 0
    (venv / "stamp").write_text(f"/elsewhere\n{version}{requirements}")
    assert project.run("true", ROOMFUL_PYTHON="/bin/false").returncode == 2


def test_a_python_that_is_too_old_is_refused(project: Project, tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    refused = project.run("true", ROOMFUL_PYTHON=str(old))
    assert refused.returncode == 2
    assert refused.stderr == f"bootstrap: ROOMFUL_PYTHON={old} is not a Python 3.11 or newer with venv\n"


class Bare:
    """A machine without the Debian programs, in a mount namespace; its apt-get is a script that makes them."""

    PROGRAMS = ("nmap", "ssh", "sshd", "rsync", "ip")
    APT = """#!/bin/sh
echo "$@" >>"$LOG"
cat /usr/sbin/policy-rc.d >>"$LOG" 2>&1
[ "$1" != install ] || [ -e "$LOG.updated" ] || { : >"$LOG.updated"; echo 'E: Unable to locate package'; exit 100; }
[ "$1" = update ] || for program in nmap ssh sshd rsync ip; do ln -sf /usr/bin/true "$TOOLS/$program"; done
"""

    def __init__(self, folder: Path, project: Project, others: Path) -> None:
        self.project = project
        self.log = folder / "apt.log"
        self.tools = folder
        self.others = others

    def with_apt(self, script: str = APT) -> None:
        """Give the machine its apt-get."""
        apt = self.tools / "apt-get"
        apt.write_text(script)
        apt.chmod(0o755)

    def run(self, *argv: str, user: str = "root") -> subprocess.CompletedProcess[str]:
        """Run bootstrap there; afterwards a last line says whether policy-rc.d was left behind."""
        script = """
            mount -t tmpfs none /usr/sbin
            setpriv --reuid "$1" --clear-groups "$2" "${@:3}"
            code=$?
            [ ! -e /usr/sbin/policy-rc.d ] || echo "policy-rc.d is still there" >&2
            exit $code
        """
        return subprocess.run(
            ["unshare", "--mount", "bash", "-c", script, "bash", user, self.project.folder / "bootstrap", *argv],
            env={
                **self.project.environment,
                "PATH": f"{self.tools}:{self.others}",
                "LOG": str(self.log),
                "TOOLS": str(self.tools),
            },
            cwd=self.project.folder,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def other_programs(place: Path) -> Path:
    """What the machine has but for the programs that bootstrap looks for."""
    folder = place / "programs"
    folder.mkdir()
    for path in Path("/usr/bin").iterdir():
        if path.name not in (*Bare.PROGRAMS, "apt-get", "systemctl"):
            (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture
def bare(place: Path, prepared: Project, other_programs: Path) -> Iterator[Bare]:
    folder = Path(tempfile.mkdtemp(dir=place))
    folder.chmod(0o755)
    yield Bare(folder, prepared, other_programs)
    shutil.rmtree(folder)


LACKS = (
    "bootstrap: this machine lacks nmap ssh sshd rsync ip; install what is missing: "
    "sudo apt-get install nmap openssh-client openssh-server rsync iproute2\n"
)


@pytest.mark.root
@pytest.mark.parametrize("command", ["inv --list", "inv deploy", "pytest tests/unit", "true"])
def test_without_root_missing_programs_are_named(bare: Bare, command: str) -> None:
    bare.with_apt()
    ran = bare.run(*command.split(), user="nobody")
    assert (ran.returncode, ran.stderr) == (0, LACKS)
    assert not bare.log.exists(), "apt-get was called"


@pytest.mark.root
@pytest.mark.parametrize("command", ["inv demo", "pytest", "pytest -x tests"])
def test_without_root_what_needs_every_program_is_refused(bare: Bare, command: str) -> None:
    bare.with_apt()
    ran = bare.run(*command.split(), user="nobody")
    assert (ran.returncode, ran.stdout, ran.stderr) == (2, "", LACKS)
    assert not bare.log.exists(), "apt-get was called"


@pytest.mark.root
def test_root_without_apt_gets_the_same_words(bare: Bare) -> None:
    ran = bare.run("inv", "demo")
    assert (ran.returncode, ran.stderr) == (2, LACKS)


@pytest.mark.root
def test_root_gets_them_installed_and_no_service_started(bare: Bare) -> None:
    bare.with_apt()
    ran = bare.run("inv", "demo")
    packages = "nmap openssh-client openssh-server rsync iproute2"
    assert (ran.returncode, ran.stderr) == (0, f"bootstrap: installing with apt-get: {packages}\n")
    policy = ["#!/bin/sh", "# made by bootstrap, for as long as apt-get runs", "exit 101"]
    install = f"install --yes --no-install-recommends -o DPkg::Lock::Timeout=300 {packages}"
    assert bare.log.read_text().splitlines() == [install, *policy, "update", *policy, install, *policy]
    assert bare.run("inv", "demo").stderr == ""


@pytest.mark.root
def test_when_apt_fails_its_words_are_shown(bare: Bare) -> None:
    bare.with_apt("#!/bin/sh\necho E: no such thing\nexit 100\n")
    ran = bare.run("true")
    assert ran.returncode == 2
    assert ran.stderr.splitlines()[-2] == "E: no such thing"
    assert "policy-rc.d" not in ran.stderr
