#!/bin/sh
# embed.sh OUT.c NAME=PATH ... : writes a C file that carries each file's bytes, by .incbin, with the table that
# base/embed.h declares.
set -eu
out=$1
shift
{
    echo '#include "base/embed.h"'
    for e in "$@"; do
        printf '__asm__(".section .rodata\\n.balign 64\\nembed_%s:\\n.incbin \\"%s\\"\\nembed_%s_end:\\n.byte 0\\n.previous\\n");\n' \
            "${e%%=*}" "${e#*=}" "${e%%=*}"
        printf 'extern const unsigned char embed_%s[], embed_%s_end[];\n' "${e%%=*}" "${e%%=*}"
    done
    echo 'const struct embed_file embed_files[] = {'
    for e in "$@"; do
        printf '    {"%s", embed_%s, embed_%s_end},\n' "${e%%=*}" "${e%%=*}" "${e%%=*}"
    done
    printf '    {0, 0, 0},\n};\n'
} >"$out.tmp"
mv "$out.tmp" "$out"
