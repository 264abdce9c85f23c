"""The placement of a batch's images in one upload."""

from hypothesis import given
from hypothesis import strategies as st

from medfocus.engine.backends.torch.upload import Size, pack

SHARE = 1000
SIZES = st.sampled_from([None, (3, 5, 1.0), (5, 3, 1.0), (5, 3, 2.0), (1, 1, 1.0), (2, 40, 0.5)])


@given(st.lists(SIZES, min_size=1, max_size=20))
def test_every_image_is_packed_and_each_size_is_contiguous(sizes: list[Size | None]) -> None:
    packing = pack(sizes, SHARE)
    assert sorted(packing.order) == list(range(len(sizes)))
    assert [packing.rows[image] for image in packing.order] == list(range(len(sizes)))
    assert len(packing.groups) == len(set(sizes))
    row = end = 0
    for size, rows, upload in packing.groups:
        assert (rows.start, upload.start) == (row, end)
        members = packing.order[rows]
        assert members == [image for image, other in enumerate(sizes) if other == size]
        for image in members:
            nbytes = SHARE if size is None else 3 * size[0] * size[1]
            assert packing.uploads[image] == slice(end, end + nbytes)
            end += nbytes
        assert upload.stop == end
        row = rows.stop
    assert (row, end) == (len(sizes), packing.nbytes)
