use super::*;

/// A header with these fields.
pub(in crate::attest) fn header(
    name: &str,
    version: &str,
    epoch: Option<u32>,
    more: usize,
) -> Vec<u8> {
    let mut fields = Vec::new();
    let mut data = Vec::new();
    let mut add = |tag: u32, kind: u32, bytes: &[u8]| {
        while kind == INT32 && data.len() % 4 != 0 {
            data.push(0);
        }
        for number in [tag, kind, u32::try_from(data.len()).unwrap(), 1] {
            fields.extend(number.to_be_bytes());
        }
        data.extend_from_slice(bytes);
    };
    let text = |text: &str| format!("{text}\0").into_bytes();
    add(NAME, STRING, &text(name));
    add(VERSION, STRING, &text(version));
    add(RELEASE, STRING, b"1\0");
    if let Some(epoch) = epoch {
        add(EPOCH, INT32, &epoch.to_be_bytes());
    }
    add(ARCHITECTURE, STRING, b"noarch\0");
    add(SOURCE, STRING, &text(&format!("{name}-src.rpm")));
    add(1005, STRING, &vec![b'd'; more]);
    let mut header = Vec::new();
    for length in [fields.len() / 16, data.len()] {
        header.extend(u32::try_from(length).unwrap().to_be_bytes());
    }
    header.extend(fields);
    header.extend(data);
    header
}

fn told(bytes: &[u8], kind: Kind) -> (Vec<String>, bool) {
    let read = |offset: u64, length: usize| {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(length)?;
        bytes.get(start..end).map(<[u8]>::to_vec)
    };
    let (all, whole) = packages(&read, kind, "f");
    let mut all: Vec<String> = all
        .iter()
        .map(|one| format!("{} {}", one.name, one.version))
        .collect();
    all.sort();
    (all, whole)
}

#[test]
fn headers_are_read() {
    let found = package(&header("bash", "5.1", Some(2), 10), "f").unwrap();
    let expected = Package {
        kind: "rpm",
        name: "bash".into(),
        version: "2:5.1-1".into(),
        architecture: Some("noarch".into()),
        source: Some("bash-src.rpm".into()),
        file: "f".into(),
    };
    assert_eq!(found, expected);
    assert_eq!(
        package(&header("a", "1", None, 0), "f").unwrap().version,
        "1-1"
    );
    assert_eq!(package(&header("", "1", None, 0), "f"), None);
}

/// Headers of different lengths, the longest on many pages.
fn several() -> (Vec<Vec<u8>>, Vec<String>) {
    let names = |index: usize| format!("p{index:03}");
    let mut all = vec![header(KEY, "1", None, 0)];
    let mut expected = Vec::new();
    for index in 0..200 {
        all.push(header(&names(index), "1", None, index * 97));
        expected.push(format!("{} 1-1", names(index)));
    }
    (all, expected)
}

/// `Packages.db` with these headers.
pub(in crate::attest) fn ndb(headers: &[Vec<u8>]) -> Vec<u8> {
    let pages = (headers.len() + 2).div_ceil(256);
    let mut file = Vec::new();
    let push =
        |file: &mut Vec<u8>, words: [u32; 4]| words.map(|word| file.extend(word.to_le_bytes()));
    let number = |index: usize| u32::try_from(index).unwrap();
    push(
        &mut file,
        [u32::from_le_bytes(*b"RpmP"), 0, 1, number(pages)],
    );
    push(&mut file, [1000, 0, 0, 0]);
    let mut blobs = Vec::new();
    for index in 0..pages * 256 - 2 {
        let slot = u32::from_le_bytes(*b"Slot");
        let Some(header) = headers.get(index) else {
            push(&mut file, [slot, 0, 0, 0]);
            continue;
        };
        let at = pages * 4096 + blobs.len();
        push(&mut file, [slot, number(index + 1), number(at / 16), 1]);
        let head = [
            u32::from_le_bytes(*b"BlbS"),
            number(index + 1),
            1,
            number(header.len()),
        ];
        push(&mut blobs, head);
        blobs.extend(header);
        blobs.resize(blobs.len().next_multiple_of(16), 0);
    }
    file.extend(blobs);
    file
}

/// `Packages`, a hash of one page with these headers, each on pages of its own.
fn berkeley(headers: &[Vec<u8>], big: bool) -> Vec<u8> {
    const SIZE: usize = 4096;
    let long = |number: usize| {
        let number = u32::try_from(number).unwrap();
        if big {
            number.to_be_bytes()
        } else {
            number.to_le_bytes()
        }
    };
    let short = |number: usize| {
        let number = u16::try_from(number).unwrap();
        if big {
            number.to_be_bytes()
        } else {
            number.to_le_bytes()
        }
    };
    let mut pages = vec![vec![0; SIZE], vec![0; SIZE]];
    pages[1][25] = HASH_PAGE;
    pages[1][20..22].copy_from_slice(&short(headers.len() * 2));
    for (index, header) in headers.iter().enumerate() {
        // The key first, on the page itself.
        let key = SIZE - (index + 1) * 20;
        let place = PAGES + index * 4;
        pages[1][place..place + 2].copy_from_slice(&short(key));
        pages[1][key] = 1;
        let value = key + 8;
        pages[1][place + 2..place + 4].copy_from_slice(&short(value));
        pages[1][value] = 3;
        let first = pages.len();
        pages[1][value + 4..value + 8].copy_from_slice(&long(first));
        pages[1][value + 8..value + 12].copy_from_slice(&long(header.len()));
        let chunks: Vec<&[u8]> = header.chunks(SIZE - PAGES).collect();
        for (number, chunk) in chunks.iter().enumerate() {
            let mut page = vec![0; SIZE];
            page[25] = 7;
            let next = if number + 1 < chunks.len() {
                pages.len() + 1
            } else {
                0
            };
            page[16..20].copy_from_slice(&long(next));
            page[22..24].copy_from_slice(&short(chunk.len()));
            page[PAGES..PAGES + chunk.len()].copy_from_slice(chunk);
            pages.push(page);
        }
    }
    let last = pages.len() - 1;
    pages[0][12..16].copy_from_slice(&long(0x0006_1561));
    pages[0][20..24].copy_from_slice(&long(SIZE));
    pages[0][32..36].copy_from_slice(&long(last));
    pages.concat()
}

const HASH_PAGE: u8 = 13;
const PAGES: usize = 26;

/// The shell of SQLite makes a database; nothing if there is none.
fn sqlite(headers: &[Vec<u8>], page: usize) -> Option<Vec<u8>> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rpmdb.sqlite");
    let mut script = format!(
        "PRAGMA page_size={page};\nCREATE TABLE 'Other' (a TEXT);\nINSERT INTO Other VALUES('x');\n\
         CREATE TABLE 'Packages' (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL);\nBEGIN;\n"
    );
    for header in headers {
        let hex: String = header.iter().map(|byte| format!("{byte:02x}")).collect();
        script.push_str(&format!("INSERT INTO Packages(blob) VALUES(x'{hex}');\n"));
    }
    script.push_str("COMMIT;\n");
    let mut shell = std::process::Command::new("sqlite3")
        .arg(&path)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .ok()?;
    std::io::Write::write_all(&mut shell.stdin.take().unwrap(), script.as_bytes()).unwrap();
    assert!(shell.wait().unwrap().success());
    Some(std::fs::read(path).unwrap())
}

#[test]
fn all_kinds_of_databases() {
    let (headers, expected) = several();
    assert_eq!(told(&ndb(&headers), ndb::headers), (expected.clone(), true));
    assert_eq!(told(&ndb(&[]), ndb::headers), (Vec::new(), true));
    for big in [false, true] {
        let some = &headers[..100];
        let expected = expected[..99].to_vec();
        assert_eq!(
            told(&berkeley(some, big), berkeley::headers),
            (expected, true)
        );
    }
    for page in [512, 4096, 65536] {
        let Some(bytes) = sqlite(&headers, page) else {
            println!("skipped: no sqlite3");
            return;
        };
        assert_eq!(
            told(&bytes, sqlite::headers),
            (expected.clone(), true),
            "{page}"
        );
    }
    let none = sqlite(&[], 4096).unwrap();
    assert_eq!(told(&none, sqlite::headers), (Vec::new(), true));
}

/// No byte that is another, and no end that comes early, makes it panic, wait or take much memory.
#[test]
fn attack_whatever_is_cut_off_or_changed_is_no_panic() {
    let headers: Vec<Vec<u8>> = (0..6)
        .map(|index| header("p", "1", Some(1), index * 900))
        .collect();
    let mut all: Vec<(Vec<u8>, Kind)> = vec![
        (ndb(&headers), ndb::headers),
        (berkeley(&headers, false), berkeley::headers),
    ];
    all.extend(sqlite(&headers, 512).map(|bytes| (bytes, sqlite::headers as Kind)));
    for (bytes, kind) in all {
        assert_eq!(told(&bytes, kind).0.len(), 6);
        for end in (0..bytes.len()).step_by(61) {
            told(&bytes[..end], kind);
        }
        for at in (0..700).chain((700..bytes.len().min(9000)).step_by(7)) {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = bytes.clone();
                changed[at] = value;
                told(&changed, kind);
            }
        }
    }
    let mut one = header("p", "1", None, 10);
    for at in 0..one.len() {
        for value in [0, 0x7f, 0xff] {
            let before = std::mem::replace(&mut one[at], value);
            package(&one, "f");
            one[at] = before;
        }
        package(&one[..at], "f");
    }
}

/// Pages that lead to one another in a circle end.
#[test]
fn attack_circles() {
    let headers = [header("p", "1", None, 20_000)];
    let mut bytes = berkeley(&headers, false);
    // The second page of the value leads to the first.
    let second = 3 * 4096;
    bytes[second + 16..second + 20].copy_from_slice(&2_u32.to_le_bytes());
    assert_eq!(told(&bytes, berkeley::headers), (Vec::new(), false));
    let Some(mut bytes) = sqlite(&headers, 512) else {
        println!("skipped: no sqlite3");
        return;
    };
    let chain = (0..bytes.len() / 512)
        .map(|page| u32::from_be_bytes(bytes[page * 512..page * 512 + 4].try_into().unwrap()))
        .rposition(|next| next > 2 && (next as usize) < bytes.len() / 512);
    let page = chain.unwrap();
    let own = u32::try_from(page + 1).unwrap();
    bytes[page * 512..page * 512 + 4].copy_from_slice(&own.to_be_bytes());
    assert_eq!(told(&bytes, sqlite::headers), (Vec::new(), false));
}
