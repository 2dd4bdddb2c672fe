# What the emulated host runs for `cargo xtask lab`; the folder `out` comes back.
mkdir -p out
exec ./scenario ./whimbrel ./vmlinuz ./guest.cpio ./out
