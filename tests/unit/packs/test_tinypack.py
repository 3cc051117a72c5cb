"""The pack that is made by hand decodes to the state that was worked out by hand."""

from tinypack import tiny_pack, tiny_state

from ucaudit.packs.codecs import open_source
from ucaudit.packs.state import reconstruct_state


def test_the_state_by_hand_is_the_decoders(tmp_path):
    for name, data in tiny_pack().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    with open_source(tmp_path) as source:
        assert reconstruct_state(source).to_bytes() == tiny_state().to_bytes()
        assert source.published_state().digest == tiny_state().digest
        assert source.unclaimed() == ("notes/.hidden",)
