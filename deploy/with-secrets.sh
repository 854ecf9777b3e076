#!/bin/sh
# Puts secrets from files into the environment of one command: Prefect and AVATAR_ settings are read from there, and
# values in a compose file would show in `inspect`. Files that are not there are left out.
set -eu
give() {
  if [ -r "/run/secrets/$1" ]; then
    value=$(cat "/run/secrets/$1")
    shift
    for name in "$@"; do export "$name=$value"; done
  fi
}
give database_url PREFECT_API_DATABASE_CONNECTION_URL
give prefect_auth PREFECT_SERVER_API_AUTH_STRING PREFECT_API_AUTH_STRING
give store_access_key AVATAR_STORE__ACCESS_KEY
give store_secret_key AVATAR_STORE__SECRET_KEY
give fal_key AVATAR_FAL__KEY
give pixazo_key AVATAR_PIXAZO__KEY
unset value
exec "$@"
