//! Texts that are nearly Dockerfiles, the same each time.

/// Pieces that mean something, to be put together at random.
const PIECES: &[&str] = &[
    "FROM a AS b\n",
    "FROM --platform=$X b\n",
    "FROM scratch\n",
    "ARG X=1\n",
    "ENV a=\"$X\" b='c'\n",
    "ENV a b\n",
    "RUN --mount=type=cache,target=/x,id=$a y\n",
    "RUN <<EOF cat <<-'X'\n\ta\nEOF\nX\n",
    "COPY <<f /x\n$a\nf\n",
    "COPY --from=b --chown=$a x y\n",
    "COPY [\"a\", \"b\"]\n",
    "CMD [\"a\"\n",
    "EXPOSE $a 80-90/udp\n",
    "# check=skip=all\n",
    "# escape=`\n",
    "HEALTHCHECK --interval=1s CMD x\n",
    "ONBUILD RUN <<E\nE\n",
    "\\\n",
    " \\\n\n",
    "\u{feff}",
    "${a:-${b%%*c}}",
    "${a//x/y}",
    "'",
    "\"",
    "\\",
    "`",
    "$",
    "{",
    "}",
    "<<",
    "-",
    "=",
    ",",
    " ",
    "\t",
    "\r\n",
    "\n",
    "ä",
    "\u{0}",
    "#",
    "[",
    "]",
    "WORKDIR ",
    "LABEL ",
    "--",
    "--x=",
    "STOPSIGNAL 9\n",
    "VOLUME [\"/x\"]\n",
    "SHELL [\"x\"]\n",
    "USER a\n",
    "MAINTAINER b\n",
];

/// Lines that are right, most of them, and depend on each other.
const LINES: &[&str] = &[
    "FROM a AS b",
    "FROM b AS c",
    "FROM scratch AS d",
    "FROM --platform=$BUILDPLATFORM a:$X AS e",
    "from b",
    "FROM c AS b",
    "FROM ${X:-a}",
    "FROM --platform=linux/arm64 $Y",
    "ARG X",
    "ARG X=1",
    "ARG X=$X-$Y Y",
    "ARG Y=y Z=${Y:+$X}",
    "ARG IMG",
    "ARG TARGETPLATFORM",
    "ARG MY_TOKEN",
    "ENV X=2",
    "ENV Y=$X Z=$Y IMG=$IMG",
    "ENV Z z",
    "ENV \"A B\"=1 C='$X'",
    "LABEL a=$X $Y=b",
    "LABEL c d $Z",
    "COPY $X /$Y",
    "COPY --from=b $Z /",
    "COPY --from=0 $IMG /",
    "COPY --from=nosuch a /",
    "COPY --chown=$X a b $Q/",
    "ADD --checksum=$X a b",
    "RUN --mount=type=secret,id=s$X,required x",
    "RUN --mount=type=cache,target=/$Y x",
    "RUN --mount=from=b,target=/x y",
    "RUN --mount=type=$T,target=/x,id=i y",
    "RUN x $UNSET",
    "WORKDIR $X",
    "WORKDIR /a",
    "USER $U",
    "EXPOSE $X",
    "EXPOSE 80/TCP 1:2",
    "VOLUME $V /v",
    "STOPSIGNAL $S",
    "STOPSIGNAL SIGTERM",
    "CMD x",
    "CMD [\"x\"]",
    "ENTRYPOINT y",
    "SHELL [\"s\"]",
    "HEALTHCHECK CMD z",
    "HEALTHCHECK NONE",
    "ONBUILD WORKDIR $X",
    "ONBUILD RUN --mount=from=d,target=/y z",
    "ONBUILD ENV OB=$X",
    "MAINTAINER m",
    "# X is x",
    "# c names a stage",
    "# check=skip=UndefinedVar;experimental=all",
    "#",
    "",
    "COPY <<F /f\n$X $W\nF",
    "COPY <<-'G' /g\n\t$X\nG",
    "RUN <<H\n$X\nH",
    "run y \\\n\n z",
    "expose 1",
    "# check=error=true",
];

/// A generator whose numbers are the same each time (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end.max(1) as u64).unwrap()
    }
}

/// A sequence of texts: recorded Dockerfiles changed at random, and pieces put together.
pub(super) struct Texts {
    random: Random,
    corpus: Vec<Vec<u8>>,
    round: usize,
}

impl Texts {
    pub(super) fn new(seed: u64) -> Self {
        let lint = include_str!("../../../fixtures/dockerfile/lint.jsonl");
        let corpus: Vec<Vec<u8>> = lint
            .lines()
            .map(|line| {
                let case: serde_json::Value = serde_json::from_str(line).unwrap();
                case["dockerfile"].as_str().unwrap().as_bytes().to_vec()
            })
            .collect();
        Self {
            random: Random(seed),
            corpus,
            round: 0,
        }
    }

    pub(super) fn next_text(&mut self) -> Vec<u8> {
        let (random, corpus) = (&mut self.random, &self.corpus);
        if self.round % 4 == 3 {
            self.round += 1;
            let mut lines = if random.below(4) > 0 {
                vec!["FROM a"]
            } else {
                Vec::new()
            };
            for _ in 0..=random.below(15) {
                lines.push(LINES[random.below(LINES.len())]);
            }
            return lines.join("\n").into_bytes();
        }
        let round = self.round;
        self.round += 1;
        let mut text = if round.is_multiple_of(2) {
            corpus[random.below(corpus.len())].clone()
        } else {
            Vec::new()
        };
        for _ in 0..=random.below(12) {
            let at = random.below(text.len() + 1);
            match random.below(8) {
                0 if !text.is_empty() => _ = text.remove(at.min(text.len() - 1)),
                1 if !text.is_empty() => {
                    let at = at.min(text.len() - 1);
                    text[at] = u8::try_from(random.below(256)).unwrap();
                }

                2 => text.truncate(at),
                3 => {
                    let tail = text.split_off(at);
                    text.splice(0..0, tail);
                }
                _ => {
                    let piece = PIECES[random.below(PIECES.len())];
                    text.splice(at..at, piece.bytes());
                }
            }
        }
        text
    }
}
