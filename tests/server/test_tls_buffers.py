"""What a connection under TLS holds of memory while it waits, and that bodies come whole through a buffer that grows."""

import asyncio
import ssl
from asyncio import sslproto

from dalsegno.server import limits
from dalsegno.server.listen import _hold_little


def test_a_connection_that_waits_holds_a_small_buffer_and_a_body_gets_a_large_one() -> None:
    """Kind: memory for what a client may do, held while it does nothing. Hundreds of watches held 32 KiB each."""

    async def look() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        waiter = asyncio.get_running_loop().create_future()
        records = sslproto.SSLProtocol(
            asyncio.get_running_loop(), asyncio.Protocol(), context, waiter, server_side=True
        )
        records.max_size = limits.TLS_READ_BYTES
        assert len(records.get_buffer(-1)) >= limits.TLS_READ_BYTES
        _hold_little(records)
        assert len(records.get_buffer(-1)) == limits.TLS_HEAD_BYTES
        records.max_size = limits.TLS_READ_BYTES
        assert len(records.get_buffer(-1)) == limits.TLS_READ_BYTES

    asyncio.run(look())
