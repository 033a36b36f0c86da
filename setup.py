"""Installs the programs as modules, and launchers on the PATH.

A launcher (packaging/launcher) is there under two names for each program: zmqpush.py, as it is
called where it was copied by hand, and zmqpush, Debian's way.
"""

import re
from pathlib import Path

from setuptools import setup

# Read as text: importing it would need pyzmq and aiozmq before they can be installed.
VERSION = re.search(
    r'^__version__ = "(.+)"$',
    Path(__file__).with_name("zmqpush.py").read_text(encoding="utf-8"),
    re.MULTILINE,
)
if VERSION is None:
    raise SystemExit("setup.py: zmqpush.py has no __version__")

PROGRAMS = ["zmqpush", "zmqpush-watermark", "zmqpull"]
PROGRESS = ["tqdm"]
REDIS = ["redis>=4.3"]

setup(
    name="zmqpush",
    version=VERSION[1],
    description="Ships lines as Logstash events through ZeroMQ, and collects them",
    license="MIT",
    classifiers=[
        "Environment :: Console",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: System :: Logging",
    ],
    py_modules=["zmqpush", "zmqpull"],
    packages=["zmqlines", "zmqlines.sinks"],
    scripts=[f"packaging/bin/{name}{end}" for name in PROGRAMS for end in ("", ".py")],
    python_requires=">=3.9",
    install_requires=["pyzmq>=24", "aiozmq>=1.0"],  # Debian 12 has 24.0.1 and 1.0.0
    extras_require={
        "progress": PROGRESS,
        "redis": REDIS,
        "test": ["hypothesis", "pytest", "pytest-timeout", "pytest-xdist", *PROGRESS, *REDIS],
        "lint": ["mypy", "ruff", "types-setuptools", "types-tqdm"],
    },
)
