"""Other charges, and a second extraction: against extractions made one by one."""

import pytest
import torch
from matplotlib.figure import Figure

from interaction_monitor import cli
from interaction_monitor.comparison import ablate, compare_outputs, extract_again
from interaction_monitor.functional import and_outputs, or_outputs, shared_and_or
from interaction_monitor.plots import comparison_figures, comparison_text


@pytest.fixture(scope="module")
def comparison():
    generator = torch.Generator().manual_seed(0)
    interactions = torch.randn(2, 2, 3, 16, generator=generator, dtype=torch.float64)
    interactions *= torch.rand(interactions.shape, generator=generator) < 0.3
    return compare_outputs(and_outputs(interactions[0]) + or_outputs(interactions[1]), names=["small", "large"])


def test_each_charge_is_extracted_by_itself(comparison):
    ablation = ablate(comparison, alphas=(0.0, 0.5, 3.0))
    for alpha, extraction in zip(ablation.alphas, ablation.extractions, strict=True):
        assert torch.equal(extraction.or_, shared_and_or(comparison.v, alpha=alpha).or_)
    assert not torch.equal(ablation.extractions[0].and_, ablation.extractions[2].and_)
    with pytest.raises(ValueError, match="alphas must be numbers of at least 0"):
        ablate(comparison, alphas=())


def test_the_table_of_charges_counts_strength_and_salient_ones(comparison):
    ablation = ablate(comparison, alphas=(0.0, 2.0))
    rows = comparison_text.ablation_table(ablation, [5]).splitlines()[1:]
    for extraction, row in zip(ablation.extractions, rows, strict=True):
        strength = salient = 0.0
        for network in range(2):
            for sample in range(3):
                both = torch.cat((extraction.and_[network, sample, 1:], extraction.or_[network, sample, 1:])).abs()
                strength += float(both.sum()) / 6
                salient += float((both > 0.05 * both.max()).sum()) / 6
        assert row.split()[-2:] == [f"{strength:.2f}", f"{salient:.1f}"]


def test_a_second_extraction_agrees_with_itself_and_not_with_noise(comparison):
    same = extract_again(comparison, k=5, change=0.0)
    assert same.and_ == same.or_ == (1.0, 1.0)
    noisy = extract_again(comparison, k=5, change=0.5)
    assert max(*noisy.and_, *noisy.or_) < 1
    lines = comparison_text.repetition_lines(same, comparison, sample=1)
    assert lines[0].startswith("Extracted again from outputs changed by a millionth, small has 100% of its 5 strongest")
    strongest = torch.stack((comparison.alone.and_, comparison.alone.or_))[:, 0, 1, 1:]
    largest = float(strongest.flatten()[strongest.abs().argmax()])
    assert lines[2].split(": ")[1].startswith(f"{largest:+.2f} ")
    assert lines[2].split(": ")[1] == lines[3].split(": ")[1]


def test_pictures_draw_each_charge_and_the_salient_interactions(comparison):
    ablation = ablate(comparison, alphas=(0.0, 1.0))
    left, middle, right = comparison_figures.ablation(ablation, [2, 5]).axes
    assert [line.get_label() for line in left.lines] == ["α = 0", "α = 1"]
    assert list(middle.lines[1].get_ydata()) == comparison_text.powers(ablation.extractions[1], [2, 5])[0]
    assert list(right.lines[0].get_ydata()) == comparison_text.powers(ablation.extractions[0], [2, 5])[1]
    ax = comparison_figures.salient_matching(comparison, 2).axes[1]
    v = comparison.v[1, 2]
    by_output = v.argsort(descending=True)
    expected = []
    for coalition in by_output.tolist():
        total = float(v[0])
        for kind, mask, active in zip(
            (comparison.alone.and_, comparison.alone.or_),
            comparison.alone.salient,
            (lambda s, t: s & t == s, lambda s, t: s & t != 0),
            strict=True,
        ):
            total += sum(float(kind[1, 2, s]) for s in range(1, 16) if mask[1, 2, s] and active(s, coalition))
        expected.append(total)
    assert list(ax.lines[1].get_ydata()) == pytest.approx(expected)


def test_the_command_writes_the_variations(tmp_path, monkeypatch, capsys, make_planted_run):
    record = make_planted_run(tmp_path / "run", n=4, samples=3)
    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: None)
    monkeypatch.setattr("interaction_monitor.plots.comparison_figures.draw_all", lambda *_: {})
    monkeypatch.setattr("interaction_monitor.plots.tensorboard_after_run.write_comparison", lambda *_, **__: None)
    monkeypatch.setattr("interaction_monitor.report.comparison_page", lambda *_: "")
    command = ["compare", str(record.folder), "--epoch", "2", "5", "--out", str(tmp_path / "out")]
    assert cli.main([*command, "--alphas", "0", "2", "--again", "--salient-matching"]) == 0
    printed = capsys.readouterr().out
    assert "α = 2" in printed
    assert "Extracted again from outputs changed by a millionth" in printed
    drawn = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert drawn == ["ablation.png", "salient_matching.png"]
    assert cli.main([*command, "--alphas", "-1"]) == 2
    assert "--alphas must be finite numbers, at least 0" in capsys.readouterr().err
