//! Names of hosts to addresses, without NSS.
//!
//! The binary is static: getaddrinfo would load NSS modules of whatever C library the host has, which
//! a static glibc must not do. So this is a stub resolver of its own, for A and AAAA records only:
//! `/etc/hosts` first, then the servers of `/etc/resolv.conf` (nameserver, search, domain, ndots,
//! timeout, attempts, use-vc), over UDP and over TCP when an answer is truncated (RFC 1035, 7766).
//! `localhost` never leaves the machine (RFC 6761). Other sources of nsswitch.conf (mDNS, LDAP) are
//! not asked. hickory-resolver was the alternative: it brings an async runtime and some forty
//! crates for the two queries that are sent here.
//!
//! Both files are read at each look-up; answers are kept for their time to live, one minute at most,
//! because the HTTP client looks up before it takes a connection from its pool.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver as UreqResolver};
use ureq::unversioned::transport::NextTimeout;

use super::dns::{self, Answer, Records};

const MAX_SERVERS: usize = 3;
const MAX_SEARCH: usize = 6;
const MAX_FILE: u64 = 1 << 20;
const MAX_TTL: Duration = Duration::from_secs(60);
const MAX_CACHED: usize = 64;
const MAX_ADDRESSES: usize = 16;
const DNS_PORT: u16 = 53;

/// Addresses by name, until when.
type Cache = HashMap<String, (Instant, Vec<IpAddr>)>;

/// Looks names up.
#[derive(Clone)]
pub struct Resolver {
    hosts: PathBuf,
    configuration: PathBuf,
    port: u16,
    cache: Arc<Mutex<Cache>>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self::new("/etc/hosts".into(), "/etc/resolv.conf".into(), DNS_PORT)
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

/// What resolv.conf says.
#[derive(Debug, PartialEq, Eq)]
struct Configuration {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    ndots: usize,
    timeout: Duration,
    attempts: u32,
    tcp: bool,
}

impl Resolver {
    /// With other files and another port than usual.
    pub fn new(hosts: PathBuf, configuration: PathBuf, port: u16) -> Self {
        Self {
            hosts,
            configuration,
            port,
            cache: Arc::default(),
        }
    }

    /// The addresses of a name, in the order to try them.
    pub fn look_up(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        if let Ok(address) = name.parse() {
            return Ok(vec![address]);
        }
        let name = name.to_ascii_lowercase();
        let local = name.trim_end_matches('.');
        let from_file = from_hosts(&read(&self.hosts), local);
        if !from_file.is_empty() {
            return Ok(in_order(from_file));
        }
        if local == "localhost" || local.ends_with(".localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        if let Some(known) = self.cached(&name) {
            return Ok(known);
        }
        let (addresses, ttl) = self.ask_all(&name)?;
        let addresses = in_order(addresses);
        if let Ok(mut cache) = self.cache.lock() {
            if cache.len() >= MAX_CACHED {
                cache.clear();
            }
            cache.insert(name, (Instant::now() + ttl.min(MAX_TTL), addresses.clone()));
        }
        Ok(addresses)
    }

    fn cached(&self, name: &str) -> Option<Vec<IpAddr>> {
        let cache = self.cache.lock().ok()?;
        let (until, addresses) = cache.get(name)?;
        (*until > Instant::now()).then(|| addresses.clone())
    }

    fn ask_all(&self, name: &str) -> io::Result<(Vec<IpAddr>, Duration)> {
        let configuration = read_configuration(&read(&self.configuration));
        let mut silent = None;
        for candidate in candidates(name, &configuration) {
            match self.ask(&candidate, &configuration) {
                Ok(Some(records)) => return Ok(records),
                Ok(None) => {}
                Err(e) => silent = Some(e),
            }
        }
        Err(silent.unwrap_or_else(|| {
            let words = format!("cannot resolve {name}: no such host");
            io::Error::new(io::ErrorKind::NotFound, words)
        }))
    }

    /// Asks the servers in turn. `None`: the name has no addresses.
    fn ask(
        &self,
        name: &str,
        configuration: &Configuration,
    ) -> io::Result<Option<(Vec<IpAddr>, Duration)>> {
        let mut last = None;
        for _ in 0..configuration.attempts {
            for server in &configuration.servers {
                let server = SocketAddr::new(*server, self.port);
                match exchange(server, name, configuration) {
                    Ok(records) if records.addresses.is_empty() => return Ok(None),
                    Ok(records) => return Ok(Some((records.addresses, records.ttl))),
                    Err(e) => {
                        last = Some(io::Error::new(
                            io::ErrorKind::TimedOut,
                            format!("cannot resolve {name}: name server {server}: {e}"),
                        ));
                    }
                }
            }
        }
        Err(last.unwrap_or_else(|| io::ErrorKind::InvalidInput.into()))
    }
}

/// Asks one server for addresses of both families.
fn exchange(server: SocketAddr, name: &str, configuration: &Configuration) -> io::Result<Records> {
    let mut all = Records::default();
    let mut failed = None;
    for kind in [dns::A, dns::AAAA] {
        let answer = match configuration.tcp {
            true => over_tcp(server, name, kind, configuration.timeout),
            false => match over_udp(server, name, kind, configuration.timeout) {
                Ok(Answer::Truncated) => over_tcp(server, name, kind, configuration.timeout),
                other => other,
            },
        };
        match answer {
            Ok(Answer::Records(records)) => all.add(records),
            Ok(Answer::NoSuchName) => return Ok(all),
            Ok(Answer::Truncated) => failed = Some(io::Error::other("truncated over TCP")),
            Ok(Answer::Failed(code)) => failed = Some(io::Error::other(format!("answers {code}"))),
            Err(e) => failed = Some(e),
        }
        // A server that does not answer for one family will not for the other.
        if all.addresses.is_empty() && failed.is_some() {
            break;
        }
    }
    match failed {
        Some(e) if all.addresses.is_empty() => Err(e),
        _ => Ok(all),
    }
}

fn over_udp(server: SocketAddr, name: &str, kind: u16, timeout: Duration) -> io::Result<Answer> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A new socket each time: its port is random, and a connected one takes answers of nobody else.
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    let (id, query) = dns::query(name, kind)?;
    socket.send(&query)?;
    let end = Instant::now() + timeout;
    let mut buffer = [0_u8; 4096];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "does not answer"));
        }
        socket.set_read_timeout(Some(left))?;
        let length = match socket.recv(&mut buffer) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            other => other?,
        };
        // What is not an answer to this very question is somebody's guess.
        if let Some(answer) = dns::answer(&buffer[..length], id, name, kind) {
            return Ok(answer);
        }
    }
}

fn over_tcp(server: SocketAddr, name: &str, kind: u16, timeout: Duration) -> io::Result<Answer> {
    use io::{Read, Write};
    let mut stream = TcpStream::connect_timeout(&server, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let (id, query) = dns::query(name, kind)?;
    let length = u16::try_from(query.len()).unwrap_or(u16::MAX);
    stream.write_all(&[&length.to_be_bytes()[..], &query].concat())?;
    let mut length = [0_u8; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0_u8; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    dns::answer(&message, id, name, kind)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an answer to the question"))
}

fn read(path: &std::path::Path) -> String {
    use io::Read;
    let mut bytes = Vec::new();
    // Without the file there is nothing in it.
    if let Ok(file) = std::fs::File::open(path) {
        let _ = file.take(MAX_FILE).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(['#', ';'])
        .next()
        .unwrap_or_default()
        .split_ascii_whitespace()
}

fn from_hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = words(line);
        let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else {
            continue;
        };
        if words.any(|word| word.eq_ignore_ascii_case(name)) && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

fn read_configuration(text: &str) -> Configuration {
    let mut configuration = Configuration {
        servers: Vec::new(),
        search: Vec::new(),
        ndots: 1,
        timeout: Duration::from_secs(5),
        attempts: 2,
        tcp: false,
    };
    for line in text.lines() {
        let mut words = words(line);
        match words.next() {
            Some("nameserver") => {
                // A zone ("fe80::1%eth0") cannot be said with std's addresses; the next one serves.
                let server = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                configuration.servers.extend(server);
            }
            Some("search" | "domain") => {
                let list = words
                    .take(MAX_SEARCH)
                    .map(|word| word.trim_end_matches('.'));
                configuration.search = list
                    .filter(|word| !word.is_empty())
                    .map(str::to_owned)
                    .collect();
            }
            Some("options") => words.for_each(|word| option(&mut configuration, word)),
            _ => {}
        }
    }
    configuration.servers.truncate(MAX_SERVERS);
    if configuration.servers.is_empty() {
        configuration.servers.push(Ipv4Addr::LOCALHOST.into());
    }
    configuration
}

fn option(configuration: &mut Configuration, word: &str) {
    let (name, value) = word.split_once(':').unwrap_or((word, ""));
    let number = value.parse::<u32>().ok();
    match (name, number) {
        ("ndots", Some(n)) => configuration.ndots = n.min(15) as usize,
        ("timeout", Some(n)) => {
            configuration.timeout = Duration::from_secs(u64::from(n.clamp(1, 30)));
        }
        ("attempts", Some(n)) => configuration.attempts = n.clamp(1, 5),
        ("use-vc", _) => configuration.tcp = true,
        _ => {}
    }
}

/// The full names to ask for, in order (resolv.conf(5), "search").
fn candidates(name: &str, configuration: &Configuration) -> Vec<String> {
    if let Some(full) = name.strip_suffix('.') {
        return vec![full.to_owned()];
    }
    let mut candidates: Vec<String> = configuration
        .search
        .iter()
        .map(|domain| format!("{name}.{domain}"))
        .collect();
    let dots = name.matches('.').count();
    let own = if dots >= configuration.ndots {
        0
    } else {
        candidates.len()
    };
    candidates.insert(own, name.to_owned());
    candidates
}

/// Families alternate, IPv6 first if there is a way out for it at all (RFC 8305, section 4).
fn in_order(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let (v6, v4): (Vec<IpAddr>, Vec<IpAddr>) = addresses.into_iter().partition(IpAddr::is_ipv6);
    let (first, second) = match v6.first() {
        Some(one) if has_route(*one) => (v6, v4),
        _ => (v4, v6),
    };
    let mut second = second.into_iter();
    let mut ordered = Vec::new();
    for address in first {
        ordered.push(address);
        ordered.extend(second.next());
    }
    ordered.extend(second);
    ordered.truncate(MAX_ADDRESSES);
    ordered
}

/// Connecting a datagram socket sends nothing, and fails where there is no route.
fn has_route(address: IpAddr) -> bool {
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))
        .and_then(|socket| socket.connect((address, 443)))
        .is_ok()
}

impl UreqResolver for Resolver {
    fn resolve(
        &self,
        uri: &Uri,
        _: &Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let authority = uri.authority().ok_or(ureq::Error::HostNotFound)?;
        let host = authority.host().trim_matches(['[', ']']);
        let port = authority.port_u16().unwrap_or(match uri.scheme_str() {
            Some("http") => 80,
            _ => 443,
        });
        let mut addresses = self.empty();
        for address in self.look_up(host)? {
            addresses.push(SocketAddr::new(address, port));
        }
        Ok(addresses)
    }
}

#[cfg(test)]
#[path = "resolver_tests.rs"]
mod tests;
