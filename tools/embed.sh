#!/bin/sh
# embed.sh OUT.c NAME=PATH ... : writes a C file that carries each file's bytes, by .incbin, with the table that
# base/embed.h declares.
set -eu
out=$1
shift
{
    echo '#include "base/embed.h"'
    i=0
    for e in "$@"; do
        printf '__asm__(".section .rodata\\n.balign 64\\nembed_%d:\\n.incbin \\"%s\\"\\nembed_%d_end:\\n.byte 0\\n.previous\\n");\n' \
            "$i" "${e#*=}" "$i"
        printf 'extern const unsigned char embed_%d[], embed_%d_end[];\n' "$i" "$i"
        i=$((i + 1))
    done
    echo 'const struct embed_file embed_files[] = {'
    i=0
    for e in "$@"; do
        printf '    {"%s", embed_%d, embed_%d_end},\n' "${e%%=*}" "$i" "$i"
        i=$((i + 1))
    done
    printf '    {0, 0, 0},\n};\n'
} >"$out.tmp"
mv "$out.tmp" "$out"
