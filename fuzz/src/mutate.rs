//! Changes seeds at random, the same way each time: bits, bytes and numbers, pieces of other seeds, words that mean
//! something in some seed.

/// A generator whose numbers are the same each time (xorshift).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Begun with any number.
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// A number below `end`, or 0.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let end = u64::try_from(end.max(1)).unwrap_or(u64::MAX);
        usize::try_from(self.0 % end).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap_or(0)
    }
}

/// Inputs that are nearly seeds.
#[derive(Debug, Clone)]
pub struct Inputs {
    random: Random,
    seeds: Vec<Vec<u8>>,
    words: Vec<Vec<u8>>,
}

/// The longest input.
const LONGEST: usize = 64 << 10;
/// The longest word that is taken from seeds.
const WORD: usize = 40;
/// What is wrong at many ends.
const EDGES: &[&[u8]] = &[
    b"0",
    b"-1",
    b"1",
    b"127",
    b"255",
    b"256",
    b"65536",
    b"2147483648",
    b"4294967296",
    b"9223372036854775807",
    b"9223372036854775808",
    b"18446744073709551616",
    b"1e999",
    b"\0",
    b"\n",
    b"\r\n",
    b"..",
    b"/",
    b"//",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xe2\x80\x8b",
    b"\xf0\x9f\x98\x80",
    b"null",
    b"{}",
    b"[]",
    b"\"\"",
    b"\\u0000",
    b"\\",
    b"\"",
    b"'",
    b"`",
    b"${",
    b"}",
    b"<<",
    b"!",
    b"*",
    b"**",
    b"[",
    b"]",
];

impl Inputs {
    /// Of these seeds.
    pub fn new(seeds: Vec<Vec<u8>>, seed: u64) -> Self {
        let mut words: Vec<Vec<u8>> = EDGES.iter().map(|edge| edge.to_vec()).collect();
        for text in &seeds {
            let parts = text.split(|byte| !byte.is_ascii_alphanumeric() && !b"_.-".contains(byte));
            words.extend(
                parts
                    .filter(|part| (2..WORD).contains(&part.len()))
                    .map(<[u8]>::to_vec),
            );
        }
        words.sort();
        words.dedup();
        let random = Random::new(seed);
        Self {
            random,
            seeds,
            words,
        }
    }

    /// The next one.
    pub fn next_input(&mut self) -> Vec<u8> {
        let mut input = self.seed();
        for _ in 0..=self.random.below(8) {
            self.change(&mut input);
        }
        input.truncate(LONGEST);
        input
    }

    fn seed(&mut self) -> Vec<u8> {
        let at = self.random.below(self.seeds.len());
        self.seeds.get(at).cloned().unwrap_or_default()
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.random.below(input.len() + 1);
        let end = (at + self.random.below(64)).min(input.len());
        match self.random.below(10) {
            0 if at < input.len() => input[at] ^= 1 << self.random.below(8),
            1 if at < input.len() => input[at] = self.random.byte(),
            2 => input.truncate(at),
            3 => drop(input.drain(at..end)),
            4 => {
                let piece = input[at..end].to_vec();
                let to = self.random.below(input.len() + 1);
                let times = 1 + self.random.below(4);
                input.splice(to..to, piece.repeat(times));
            }
            5 => {
                let other = self.seed();
                let from = self.random.below(other.len() + 1);
                let to = (from + self.random.below(200)).min(other.len());
                input.splice(at..at, other[from..to].iter().copied());
            }
            6 => {
                let other = self.seed();
                let from = self.random.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            7 => input.splice(at..end, self.word()).for_each(drop),
            8 => self.number(input, at),
            _ => {
                let word = self.word();
                input.splice(at..at, word);
            }
        }
    }

    fn word(&mut self) -> Vec<u8> {
        let at = self.random.below(self.words.len());
        self.words[at].clone()
    }

    /// Puts a number that is wrong at many ends where there is one.
    fn number(&mut self, input: &mut Vec<u8>, at: usize) {
        let Some(from) = input[at..].iter().position(u8::is_ascii_digit) else {
            return;
        };
        let from = at + from;
        let length = input[from..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        let number = EDGES[self.random.below(12)].to_vec();
        input.splice(from..from + length, number);
    }
}
