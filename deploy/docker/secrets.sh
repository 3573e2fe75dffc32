#!/bin/sh
# Writes the secrets of docker-compose.yml, a file each, with passwords made here. What is there stays as it is.
#   deploy/docker/secrets.sh [FOLDER]        the provider's key: SHOAL_OPENROUTER_API_KEY=sk-or-… before it
set -eu
umask 077
folder=${1:-$(dirname "$0")/secrets}
mkdir -p "$folder"

password() { head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n'; }
put() { [ -e "$folder/$1" ] || printf '%s' "$2" >"$folder/$1"; }

put redis_password "$(password)"
put postgres_password "$(password)"
put flower_basic_auth "shoal:$(password)"
put grafana_password "$(password)"
put shoal_redis_url "redis://:$(cat "$folder/redis_password")@redis:6379/0"
put shoal_result_url "postgresql://shoal:$(cat "$folder/postgres_password")@postgres:5432/shoal"
put shoal_openrouter_api_key "${SHOAL_OPENROUTER_API_KEY:-sandbox}"
# Containers read them as users of their own; the folder keeps others out.
chmod 0444 "$folder"/*
