#!/usr/bin/env bash
# Downloads a public dataset from its canonical address and checks its SHA-256.
#
#   datasets/fetch.sh NAME [DIR]     into DIR (default: data/NAME)
#   datasets/fetch.sh                lists the names
#
# A file has its own name only when it is whole and its checksum is right; until then it is called
# NAME.part, and a download that broke off goes on there the next time. Archives are unpacked beside
# and moved into place in one step. What is there already is not fetched again.
#
# The checksums are those of the TensorFlow Datasets project (url_checksums/ in its repository).
# DYT_FETCH_LIST names another list, in the same form; the tests use it.
set -euo pipefail

# name  address of a file  SHA-256  folder that the archive unpacks to (- for a plain file)
list() {
  if [ -n "${DYT_FETCH_LIST:-}" ]; then cat "$DYT_FETCH_LIST"; return; fi
  local toronto=https://www.cs.toronto.edu/~kriz
  local mnist=https://storage.googleapis.com/cvdf-datasets/mnist
  local fashion=http://fashion-mnist.s3-website.eu-central-1.amazonaws.com
  local fastai=https://s3.amazonaws.com/fast-ai-imageclas
  cat << END
cifar10 $toronto/cifar-10-binary.tar.gz c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd cifar-10-batches-bin
mnist $mnist/train-images-idx3-ubyte.gz 440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609 -
mnist $mnist/train-labels-idx1-ubyte.gz 3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c -
mnist $mnist/t10k-images-idx3-ubyte.gz 8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6 -
mnist $mnist/t10k-labels-idx1-ubyte.gz f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6 -
fashion-mnist $fashion/train-images-idx3-ubyte.gz 3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84 -
fashion-mnist $fashion/train-labels-idx1-ubyte.gz a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845 -
fashion-mnist $fashion/t10k-images-idx3-ubyte.gz 346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073 -
fashion-mnist $fashion/t10k-labels-idx1-ubyte.gz 67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5 -
tinyshakespeare https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt 86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed -
imagenette $fastai/imagenette2.tgz de32de18a7d8df0114d5e2c3c14cafb9558e8f00441a73aa7953681ad02be49c imagenette2
imagenette-320 $fastai/imagenette2-320.tgz 5020a9130cea0348272823cb12d2db7e981c6f2afa3dce71ccd5b8013005c55e imagenette2-320
imagenette-160 $fastai/imagenette2-160.tgz 88daccb09b6fce93f45e6c09ddeb269cce705549e6bff322092a2a5a11489863 imagenette2-160
END
}

fail() { echo "fetch.sh: $*" >&2; exit 1; }
sha256_of() { sha256sum "$1" | cut -d' ' -f1; }

# download ADDRESS FILE: into FILE.part, going on where an earlier attempt ended.
download() {
  local part=$2.part code=0
  curl -fL --retry 3 --connect-timeout 20 --progress-bar -C - -o "$part" "$1" || code=$?
  # 33 and 36: the server can't go on in the middle. 22 with a part: it may be whole already (416).
  if [ "$code" = 33 ] || [ "$code" = 36 ]; then
    rm -f "$part"
    code=0
    curl -fL --retry 3 --connect-timeout 20 --progress-bar -o "$part" "$1" || code=$?
  fi
  if [ "$code" = 22 ] && [ -s "$part" ]; then code=0; fi  # the checksum will tell
  [ "$code" = 0 ] || fail "the download of $1 broke off (curl says $code);" \
    "what there is of it lies in $part: call again to go on"
}

# get ADDRESS SHA256 FILE: FILE is there afterwards, and right.
get() {
  local address=$1 wanted=$2 file=$3 found
  if [ -f "$file" ] && [ "$(sha256_of "$file")" = "$wanted" ]; then
    echo "$file is there already"
    return
  fi
  echo "$address"
  download "$address" "$file"
  found=$(sha256_of "$file.part")
  if [ "$found" != "$wanted" ]; then
    rm -f "$file.part"
    fail "$address has SHA-256 $found, not $wanted: it was damaged on the way, or is another file" \
      "now; it was thrown away"
  fi
  mv "$file.part" "$file"
}

# unpack ARCHIVE FOLDER: the archive's FOLDER in its place, the archive gone.
unpack() {
  local archive=$1 folder=$2 beside=$2.unpacking
  rm -rf "$beside"
  mkdir "$beside"
  tar -xf "$archive" -C "$beside" || { rm -rf "$beside"; fail "cannot unpack $archive"; }
  [ -d "$beside/$(basename "$folder")" ] ||
    { rm -rf "$beside"; fail "$archive does not hold a folder $(basename "$folder")"; }
  mv "$beside/$(basename "$folder")" "$folder"
  rm -rf "$beside" "$archive"
}

names() { list | cut -d' ' -f1 | sort -u | tr '\n' ' '; }
if [ $# -lt 1 ] || [ $# -gt 2 ]; then
  echo "usage: datasets/fetch.sh NAME [DIR], where NAME is one of: $(names)" >&2
  exit 2
fi
name=$1 dir=${2:-data/$1}
list | grep -q "^$name " || { echo "fetch.sh: unknown dataset \"$name\": expected one of: $(names)" >&2; exit 2; }
for tool in curl sha256sum tar; do
  command -v "$tool" > /dev/null || fail "$tool is needed, and not installed"
done

mkdir -p "$dir"
while read -r entry address sum folder; do
  [ "$entry" = "$name" ] || continue
  file=$dir/$(basename "$address")
  if [ "$folder" = - ]; then
    get "$address" "$sum" "$file"
  elif [ -d "$dir/$folder" ]; then
    echo "$dir/$folder is there already"
  else
    get "$address" "$sum" "$file"
    unpack "$file" "$dir/$folder"
  fi
done < <(list)

case $name in
  cifar10) echo "use it as --data cifar10:$dir/cifar-10-batches-bin" ;;
  mnist) echo "use it as --data mnist:$dir" ;;
  fashion-mnist) echo "use it as --data fashion:$dir" ;;
  tinyshakespeare) echo "use it as --data text:$dir/input.txt" ;;
  imagenette) echo "use it as --data folder:$dir/imagenette2" ;;
  imagenette-*) echo "use it as --data folder:$dir/imagenette2-${name#*-}" ;;
esac
