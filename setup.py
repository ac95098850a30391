"""Builds the native data plane where it can be built; without a compiler or OpenSSL, Python does its work."""

import runpy
from pathlib import Path

from setuptools import Extension, setup

NATIVE = Path("anonnet/native")
known = runpy.run_path(str(NATIVE / "sources.py"))

setup(
    ext_modules=[
        Extension(
            "anonnet._native",
            [str(path) for path in sorted(NATIVE.glob("*.c"))],
            depends=[str(path) for path in sorted(NATIVE.glob("*.h"))],
            define_macros=[("ANONNET_SOURCES", f'"{known["fingerprint"]()}"')],
            libraries=["crypto"],
            extra_compile_args=[
                *("-std=gnu11", "-O2", "-fstack-protector-strong"),
                *("-Wall", "-Wextra", "-Wno-missing-field-initializers"),
            ],
            extra_link_args=["-Wl,-z,relro,-z,now"],
            optional=True,
        )
    ]
)
