"""Makes .venv and installs the pinned requirements; a second run finds nothing to do.

Runs under any Python 3 (`python3 tools/install.py [EXTRA]`): an unsupported one gets a sentence, not a traceback.
"""

import hashlib
import os
import subprocess
import sys

MINIMUM = (3, 11)
# What is installed without its own requirements, by extra: labml-nn asks for torchvision and needs nothing of it here.
BARE = {"oracles": ["labml", "labml-helpers", "labml-nn"]}
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def main(extra):
    if sys.version_info < MINIMUM:
        return stop(
            "Python %d.%d or newer is needed, this is %s; try `make PYTHON=python3.11`" % (MINIMUM + (version(),))
        )
    venv = os.path.join(ROOT, ".venv" if extra == "test" else ".venv-" + extra)
    shown = os.path.relpath(venv, ROOT)
    stamp = os.path.join(venv, "installed")
    wanted = fingerprint(extra)
    if os.path.isfile(stamp) and read(stamp) == wanted:
        return 0
    python = os.path.join(venv, "Scripts" if os.name == "nt" else "bin", "python")
    if not os.path.exists(python):
        print("making %s with Python %s" % (shown, version()), flush=True)
        try:
            import ensurepip  # noqa: F401
            import venv as _  # noqa: F401
        except ImportError:
            return stop("this Python has no venv module; on Debian: apt-get install python3-venv")
        if subprocess.call([sys.executable, "-m", "venv", venv]) != 0:
            return stop("could not make a virtual environment in %s" % shown)
    print("installing the requirements pinned in constraints.txt into %s (minutes, the first time)" % shown, flush=True)
    constraints = os.path.join(ROOT, "constraints.txt")
    # PIP_CONSTRAINT pins what builds the project as well, which -c does not reach.
    environment = dict(os.environ, PIP_CONSTRAINT=constraints, PIP_DISABLE_PIP_VERSION_CHECK="1")
    command = [python, "-m", "pip", "install", "--quiet", "--progress-bar", "on"]
    done = subprocess.run(
        command + ["--editable", ".[%s]" % extra], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    if done.returncode == 0 and extra in BARE:
        done = subprocess.run(
            command + ["--no-deps"] + BARE[extra], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        )
    if done.returncode != 0:
        sys.stderr.write(done.stderr)
        if any(
            w in done.stderr for w in ("NewConnectionError", "Failed to establish", "Temporary failure", "No matching")
        ):
            return stop("pip found no way to the packages: is there a network, or a package index that pip knows?")
        return stop("pip could not install the requirements; its own message is above")
    with open(stamp, "w") as file:
        file.write(wanted)
    return 0


def fingerprint(extra):
    """Changes with the requirements, so that a new pin reinstalls and nothing else does."""
    total = hashlib.sha256(extra.encode())
    for name in ("constraints.txt", "pyproject.toml"):
        total.update(read(os.path.join(ROOT, name)).encode())
    return total.hexdigest()


def read(path):
    with open(path) as file:
        return file.read()


def version():
    return "%d.%d.%d" % tuple(sys.version_info[:3])


def stop(message):
    sys.stderr.write("set-up stopped: " + message + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "test"))
