//! A web server on loopback, for tests.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// Path, status, headers, body.
type Page = (&'static str, u16, &'static str, Vec<u8>);

/// Status, headers, body.
type Answer = (u16, String, Vec<u8>);

/// Answers as told, until it is dropped.
pub(super) struct Server {
    address: std::net::SocketAddr,
    seen: Arc<Mutex<String>>,
}

impl Server {
    pub(super) fn new(pages: Vec<Page>) -> Self {
        Self::start(move |path| {
            let page = pages.iter().find(|(known, ..)| *known == path);
            page.map(|(_, status, headers, body)| (*status, (*headers).to_owned(), body.clone()))
        })
    }

    /// Serves the files of a directory, as a git server that only knows files.
    pub(super) fn files(root: PathBuf) -> Self {
        Self::start(move |path| {
            let path = path.split('?').next().unwrap_or_default();
            let body = std::fs::read(root.join(path.trim_start_matches('/'))).ok()?;
            Some((200, String::new(), body))
        })
    }

    fn start(answer: impl Fn(&str) -> Option<Answer> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(String::new()));
        let log = Arc::clone(&seen);
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                // An empty request is the end.
                if !serve(stream, &log, &*answer) {
                    return;
                }
            }
        });
        Self { address, seen }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// All requests so far, in lower case.
    pub(super) fn seen(&self) -> String {
        self.seen.lock().unwrap().to_lowercase()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(mut stream) = TcpStream::connect(self.address) {
            let _ = stream.write_all(b"END\r\n\r\n");
        }
    }
}

fn serve(
    mut stream: TcpStream,
    log: &Mutex<String>,
    answer: &dyn Fn(&str) -> Option<Answer>,
) -> bool {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => request.push(byte[0]),
            _ => return true,
        }
    }
    let text = String::from_utf8_lossy(&request).into_owned();
    if text.starts_with("END") {
        return false;
    }
    log.lock().unwrap().push_str(&text);
    let path = text.split(' ').nth(1).unwrap_or_default();
    let (status, headers, body) = answer(path).unwrap_or((404, String::new(), b"none".to_vec()));
    let head = format!(
        "HTTP/1.1 {status} x\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(&body);
    true
}
