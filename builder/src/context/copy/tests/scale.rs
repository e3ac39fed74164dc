//! Many files: time and memory are measured by hand (`RCRUN_MEASURE=FILES`).

use super::*;

fn many(case: &Case, count: usize, size: usize) {
    let content = vec![b'x'; size];
    for number in 0..count {
        let directory = number / 20;
        let directory = case.from(&format!("s/{:03}/{:02}", directory % 500, directory / 500));
        if number % 20 == 0 {
            std::fs::create_dir_all(&directory).unwrap();
        }
        let mut content = content.clone();
        content.extend_from_slice(number.to_string().as_bytes());
        std::fs::write(directory.join(format!("file{number}")), content).unwrap();
    }
}

#[test]
fn threads_make_no_difference() {
    let case = Case::large();
    many(&case, 3000, 100);
    let request = case.request(&["s"], "/d/");
    let selection = select(&request).unwrap();
    let root = OwnedFd::from(std::fs::File::open(case.root("")).unwrap());
    let mut reports = Vec::new();
    for threads in [1, 4] {
        let options = Options {
            times: case.times,
            threads,
        };
        reports.push(selection.execute(root.as_fd(), options).unwrap());
        let copied = std::fs::read_dir(case.root("d")).unwrap().count();
        assert_eq!(copied, 150);
        std::fs::rename(case.root("d"), case.root(&format!("d{threads}"))).unwrap();
    }
    assert_eq!(reports[0], reports[1]);
    assert_eq!(listing(&case.root("d1")), listing(&case.root("d4")));
    assert_eq!(reports[0].files, 3000);
}

fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn measured() {
    let Some(count) = std::env::var("RCRUN_MEASURE")
        .ok()
        .and_then(|text| text.parse().ok())
    else {
        println!("skipped: RCRUN_MEASURE is not set");
        return;
    };
    let size = std::env::var("RCRUN_MEASURE_SIZE")
        .ok()
        .and_then(|text| text.parse().ok());
    let case = Case::new(&[]);
    many(&case, count, size.unwrap_or(1000));
    let threads = std::env::var("RCRUN_MEASURE_THREADS")
        .ok()
        .and_then(|text| text.parse().ok());
    let threads = threads.unwrap_or(2);
    let cache = super::super::StatCache::default();
    for round in 0..3 {
        let start = std::time::Instant::now();
        let selection = select(&case.request(&["."], "/")).unwrap();
        let selected = start.elapsed();
        selection.checksum(threads, Some(&cache)).unwrap();
        let hashed = start.elapsed() - selected;
        let root = case.root(&format!("{round}"));
        std::fs::create_dir(&root).unwrap();
        let root = OwnedFd::from(std::fs::File::open(root).unwrap());
        let options = Options {
            times: case.times,
            threads,
        };
        selection.execute(root.as_fd(), options).unwrap();
        let copied = start.elapsed() - selected - hashed;
        println!(
            "{count} files: select {selected:?}, checksum {hashed:?}, copy {copied:?}, peak {} KiB",
            peak()
        );
    }
}
