import json
import sys

from fastload.tools.cli import main
from fastload.tools.cli.exits import Exit


def test_training_tells_its_result(tmp_path, capsys):
    """The result is on stdout and, with every loss, in the file; stderr, no terminal, is empty."""
    file = tmp_path / "result.json"
    assert main(["train", "--workers", "0", "--epochs", "1", "--json", str(file)]) == Exit.OK
    captured = capsys.readouterr()
    assert captured.err == ""
    document = json.loads(file.read_text())
    assert document["schema_version"] == 1
    assert document["config"]["loader"] == "fastload"
    result = document["result"]
    assert len(result["loss_history"]) == 23
    for words in (f"{result['loss']:.6f}", f"{result['accuracy']:.2%}", "samples/s", "stalled"):
        assert words in captured.out


def test_missing_library_is_told(capsys, monkeypatch):
    """Without scikit-learn the digits cannot be trained: exit code 4, and how to get it."""
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert main(["train"]) == Exit.ENVIRONMENT
    assert "pip install 'fastload[bench]'" in capsys.readouterr().err
