import pytest

from transporter_pl.errors import TransporterError
from transporter_pl.planning.gpus import GIB, KNOWN, find_gpu


@pytest.mark.parametrize("name", ["H100 80GB", "h100", "H100-80GB", "h100 80"])
def test_a_gpu_is_found_by_its_name_however_it_is_written(name):
    assert find_gpu(name) is next(gpu for gpu in KNOWN if gpu.name == "H100 80GB")


@pytest.mark.parametrize("size", ["48", "48GiB", "48 GB"])
def test_a_number_is_so_much_memory_and_no_speed(size):
    assert (find_gpu(size).memory, find_gpu(size).flops) == (48 * GIB, None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "RTX 4080",
            r"gpu: 'RTX 4080' is unknown\. Did you mean 'RTX 4090 24GB'\? Known: H200 141GB, .*; or give its GiB",
        ),
        ("A100", r"gpu: 'A100' is ambiguous\. Which of them\? Known"),
        ("", "gpu: '' is unknown"),
        ("0", "gpu: '0' is unknown"),
        ("-3", "gpu: '-3' is unknown"),
    ],
)
def test_an_unknown_one_is_refused_with_those_known(name, message):
    with pytest.raises(TransporterError, match=message):
        find_gpu(name)
