#!/usr/bin/env bash
# Make the secrets that docker-compose.yml mounts, where they are missing; never touch one that is there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
umask 077
mkdir -p secrets
cd secrets
[ -e postgres_password ] || head -c 24 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n' >postgres_password
url="postgresql://postgres:$(cat postgres_password)@postgres:5432/autovibe"
[ -e database_url ] || printf '%s' "$url" >database_url
# The session puts the reading role on itself before its first statement.
[ -e database_reader_url ] || printf '%s' "$url?options=-c%20role%3Dautovibe_reader" >database_reader_url
# The containers run as another user than whoever made the files; the directory keeps everybody else out.
chmod 444 postgres_password database_url database_reader_url
