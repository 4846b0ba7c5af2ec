FROM python:3.13-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/bamboo
WORKDIR /src
# The dependencies alone first: this layer is built again only when the lock changes.
COPY requirements.lock ./
RUN /opt/bamboo/bin/pip install --require-hashes -r requirements.lock
# What .dockerignore lets through, and no more.
COPY . .
# The tag of a release; git and its tags are not in here.
ARG VERSION=
# The build backend is in the lock too, so nothing is fetched here.
RUN GATEWAY_BUILD_VERSION="$VERSION" /opt/bamboo/bin/pip install --no-index --no-deps --no-build-isolation .

FROM python:3.13-slim
# A fixed number, so that a directory bound to /data can be given to it: chown 10001:10001.
RUN groupadd --gid 10001 bamboo \
 && useradd --uid 10001 --gid bamboo --create-home --shell /usr/sbin/nologin bamboo \
 && install -d -m 0700 -o bamboo -g bamboo /data
COPY --from=build /opt/bamboo /opt/bamboo
# 0.0.0.0 is the container's own network; who reaches it is decided by what `docker run -p` publishes.
# The gateway refuses this address without BAMBOO_API_KEYS, unless BAMBOO_INSECURE=true says that is meant.
ENV PATH=/opt/bamboo/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    BAMBOO_DATA_DIR=/data \
    BAMBOO_HOST=0.0.0.0 \
    BAMBOO_PORT=8080
# By number: an orchestrator that wants no root cannot look names up.
USER 10001:10001
WORKDIR /home/bamboo
# After the directory was made with its owner and mode: a new volume takes both from it.
VOLUME /data
EXPOSE 8080
# http.client, not urllib: a proxy named in the environment must not be asked about this container.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['BAMBOO_PORT']), timeout=4); c.request('GET', '/health/ready'); sys.exit(c.getresponse().status != 200)"]
# The exec form makes the gateway the process that gets SIGTERM, and so drains. More flags can follow.
ENTRYPOINT ["bamboo", "serve"]
