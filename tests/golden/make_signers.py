"""Write the golden list of signers. Run once when the list was made; its file is read forever."""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from dalsegno.pool.signers import SIGNERS_REF, Signer, trust_signer
from kit import ref_path
from make_ref_v2 import make_pool
from make_revision_signed import KEY

SIGNER = Signer(name="anna@laptop", key=KEY.public, since_ns=1_796_000_000_000_000_000)


def main(scratch: str) -> None:
    """Write ref-v2.signers, as it lies under SIGNERS_REF."""
    with make_pool(Path(scratch) / "pool") as pool:
        trust_signer(pool, SIGNER)
        (Path(__file__).parent / "ref-v2.signers").write_bytes(ref_path(pool, SIGNERS_REF).read_bytes())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        main(directory)
