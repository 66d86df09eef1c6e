#!/usr/bin/env bash
# Installs the Debian packages that are missing. Does nothing when all are there.
#   deploy/install-deps.sh           what building, running and testing need
#   deploy/install-deps.sh lint      also clang-format, clang-tidy
#   deploy/install-deps.sh fuzz      also clang with libFuzzer
#   deploy/install-deps.sh proxies   also nginx and HAProxy, which the tests of deploy/ run where they are
set -eu

packages=(gcc g++ libc6-dev make pkg-config
          libmicrohttpd-dev libjansson-dev libpcre2-dev libutf8proc-dev
          libcriterion-dev libcurl4-openssl-dev curl xz-utils)
case ${1:-} in
lint) packages+=(clang-format clang-tidy) ;;
fuzz) packages+=(clang libclang-rt-14-dev) ;;
proxies) packages+=(nginx-light haproxy) ;;
esac

if ! command -v dpkg-query >/dev/null; then
    echo "install-deps: this is no Debian system; install these packages' equivalents yourself:" >&2
    echo "  ${packages[*]}" >&2
    exit 0
fi
missing=()
for package in "${packages[@]}"; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

echo "install-deps: installing ${missing[*]}"
sudo=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "install-deps: not root and no sudo; run as root: apt-get install ${missing[*]}" >&2
        exit 1
    fi
    sudo=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
install() {
    "${sudo[@]}" apt-get install -y --no-install-recommends -q "${missing[@]}" </dev/null
}
# The package lists of a fresh machine are empty or old: update, then install.
"${sudo[@]}" apt-get update -q </dev/null
install
