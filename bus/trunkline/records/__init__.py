"""Records, and the batches in which they are stored and sent.

* :mod:`~trunkline.records.record`: one message.
* :mod:`~trunkline.records.batch`: a batch as a broker treats it: header, CRC, offset; the stored format.
* :mod:`~trunkline.records.encoding`: records into a batch.
* :mod:`~trunkline.records.decoding`: a batch into records, within a bound on memory.
* :mod:`~trunkline.records.readable`: likewise, leaving out what cannot be read.
* :mod:`~trunkline.records.single`: one of them.
* :mod:`~trunkline.records.spans`: where they lie in it, without making objects of them.
"""

from trunkline.compression import Buffer, Compression
from trunkline.records.batch import (
    HEADER_BYTES,
    BatchHeader,
    assign,
    assign_in_place,
    check_batch,
    iter_headers,
    read_header,
    with_records,
)
from trunkline.records.decoding import (
    DEFAULT_MAX_DECODED_BYTES,
    HEADER_OVERHEAD_BYTES,
    RECORD_OVERHEAD_BYTES,
    decode,
    decode_all,
)
from trunkline.records.encoding import EMPTY_HEADERS, BatchBuilder, NewRecord, encode, encode_headers
from trunkline.records.readable import decode_readable
from trunkline.records.record import ConsumerRecord, Header, Record
from trunkline.records.single import decode_single
from trunkline.records.spans import is_in_headers

__all__ = [
    "Record",
    "ConsumerRecord",
    "Header",
    "NewRecord",
    "BatchHeader",
    "BatchBuilder",
    "Buffer",
    "Compression",
    "read_header",
    "check_batch",
    "iter_headers",
    "is_in_headers",
    "with_records",
    "assign",
    "assign_in_place",
    "encode",
    "encode_headers",
    "decode",
    "decode_all",
    "decode_readable",
    "decode_single",
    "DEFAULT_MAX_DECODED_BYTES",
    "EMPTY_HEADERS",
    "HEADER_BYTES",
    "HEADER_OVERHEAD_BYTES",
    "RECORD_OVERHEAD_BYTES",
]
