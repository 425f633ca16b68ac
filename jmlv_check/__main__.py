"""``jmlv-check CERTIFICATE NETWORK``: 0 if all that the certificate says holds, 1 if not."""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

from jmlv_check.certificate import check
from jmlv_check.network import Refused, load, read_arrays


def main(argv: list[str] | None = None) -> int:
    """Prints what was proven about which file, or the first step that does not hold."""
    parser = argparse.ArgumentParser("jmlv-check", description=main.__doc__)
    parser.add_argument("certificate", help="as Certificate.save of jmlv writes it")
    parser.add_argument("network", help="the network's archive (.npz), or an ONNX file (.onnx)")
    parser.add_argument("--exact", action="store_true", help="exact integers, some 10 times slower")
    options = parser.parse_args(argv)
    try:
        network = load(options.network)
        report = check(read_arrays(options.certificate), network, options.exact)
    except Refused as problem:
        print(f"REFUSED: {problem}", file=sys.stderr)
        return 1
    file = hashlib.sha256(Path(options.network).read_bytes()).hexdigest()
    about = f"{options.network}, sha256 of the file {file}, of its numbers {network.sha256()}"
    print(f"{report.statement}.\nnetwork: {about}")
    print(f"least bound {report.bound:.6g}, {report.leaves} leaves")
    return 0


if __name__ == "__main__":
    sys.exit(main())
