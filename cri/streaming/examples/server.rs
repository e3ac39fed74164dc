//! A server with a back end that echoes, for clients that are not ours: each line of standard input is a request
//! (`exec ioe cat`, `attach ioet`, `forward 80`), each line of standard output its URL, or what `state` asks for.
#![allow(clippy::print_stdout, reason = "it is a program for tests")]

#[path = "../tests/echo/mod.rs"]
mod echo;

use rcrun_streaming::{Server, Settings};
use std::io::BufRead;
use std::sync::atomic::Ordering;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), rcrun_error::Error> {
    let backend = echo::Echo::default();
    let seen = std::sync::Arc::clone(&backend.0);
    let server = Server::bind(Settings::default(), backend).await?;
    let urls = server.urls();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let answer = match echo::request(&line).map(|request| urls.issue(request)) {
                _ if line == "state" => format!(
                    "running {} gone {} all {}",
                    seen.running.load(Ordering::SeqCst),
                    seen.gone.load(Ordering::SeqCst),
                    seen.all.load(Ordering::SeqCst)
                ),
                Some(Ok(url)) => url,
                Some(Err(error)) => format!("error: {}", error.chain()),
                None => "error: not a request".to_owned(),
            };
            println!("{answer}");
        }
        std::process::exit(0);
    });
    server.serve().await;
    Ok(())
}
