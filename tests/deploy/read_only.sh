# Runs "$@" as $IMAGE_USER in the file system $ROOT, of which nothing can be written but /tmp: what
# `podman run --read-only --volume` would mount. In a mount namespace of its own, as root.
set -e
mount --bind "$ROOT" "$ROOT"
mkdir -p "$ROOT/engines/random" "$ROOT/etc/medfocus"
mount --bind "$ENGINE" "$ROOT/engines/random"
mount --bind "$SETTINGS" "$ROOT/etc/medfocus"
for each in engines/random etc/medfocus; do mount -o remount,ro,bind "$ROOT/$each"; done
mount -t proc proc "$ROOT/proc"
mount --rbind /dev "$ROOT/dev"
mount -t tmpfs tmpfs "$ROOT/tmp"
mount -o remount,ro,bind "$ROOT"
if touch "$ROOT/home/medfocus/file" 2>&-; then exit 99; fi
exec chroot --userspec="$IMAGE_USER" "$ROOT" env -i PATH=/opt/medfocus/bin:/bin:/usr/bin "$@"
