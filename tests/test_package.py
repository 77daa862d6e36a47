import interaction_monitor


def test_version_is_stated():
    assert interaction_monitor.__version__.count(".") == 2
