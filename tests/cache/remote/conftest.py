"""A real S3 server on loopback."""

import os

import pytest

pytest.importorskip("s3fs")


@pytest.fixture(scope="session")
def server():
    moto_server = pytest.importorskip("moto.server")
    started = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = dict(os.environ)
    os.environ.update(settings)
    yield settings["AWS_ENDPOINT_URL"]
    os.environ.clear()
    os.environ.update(before)
    started.stop()


@pytest.fixture
def url(server, request):
    """A bucket of its own."""
    import s3fs

    name = f"bucket-{abs(hash(request.node.name)):x}"
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(name)
    return f"s3://{name}/cache"
