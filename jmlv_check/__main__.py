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
        arrays, network = read_arrays(options.certificate), load(options.network)
        digest = hashlib.sha256(Path(options.network).read_bytes()).hexdigest()
        report = check(arrays, network, options.exact)
    except Refused as problem:
        print(f"REFUSED: {problem}", file=sys.stderr)
        return 1
    print(f"{report.statement}.")
    print(
        f"network: {options.network}, sha256 of the file {digest}, of its numbers {network.sha256()}"
    )
    print(f"least bound {report.bound:.6g}, {report.leaves} leaves")
    return 0


if __name__ == "__main__":
    sys.exit(main())
