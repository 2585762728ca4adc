//! A proxy before a registry that does what bad networks and bad registries do, and writes down what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What goes wrong with a request whose first line has this in it, and how often.
#[derive(Clone)]
pub struct Fault {
    pub when: &'static str,
    pub times: u32,
    pub what: What,
}

#[derive(Clone)]
pub enum What {
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// Another status, with these headers.
    Status(u16, &'static str),
    /// One byte of the body is another.
    Lie,
    /// Half of a body that says it is whole.
    Half,
    /// The connection ends after so many bytes of what is sent.
    CutUpload(u64),
    /// It does what it is asked, and the answer is lost.
    Deaf,
}

/// What it was asked: first lines, with the range where one was asked for.
pub type Log = Arc<Mutex<Vec<String>>>;

/// Tokens that are given out and taken.
#[derive(Clone, Default)]
pub struct Tokens {
    /// `user:password` in base64; empty for anybody.
    pub password: &'static str,
    /// So many tokens are not taken when they come back.
    pub expired: u32,
}

struct State {
    upstream: String,
    address: String,
    faults: Mutex<Vec<Fault>>,
    tokens: Option<Tokens>,
    given: Mutex<u32>,
    log: Log,
}

/// A started proxy. Its threads wait for connections until the test's process ends.
pub struct Proxy {
    pub address: String,
    state: Arc<State>,
}

impl Proxy {
    pub fn start(upstream: &str, faults: Vec<Fault>, tokens: Option<Tokens>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let state = Arc::new(State {
            upstream: upstream.to_owned(),
            address: address.clone(),
            faults: Mutex::new(faults),
            tokens,
            given: Mutex::new(0),
            log: Log::default(),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                // Whoever went away is none of the proxy's business.
                std::thread::spawn(move || state.serve(stream).ok());
            }
        });
        Self { address, state }
    }

    /// How often something with these words was asked for.
    pub fn count(&self, words: &str) -> usize {
        self.log().iter().filter(|line| line.contains(words)).count()
    }

    pub fn log(&self) -> Vec<String> {
        self.state.log.lock().unwrap().clone()
    }

    /// Forgets what it was asked.
    pub fn clear(&self) {
        self.state.log.lock().unwrap().clear();
    }

    /// From now on this goes wrong, and nothing else.
    pub fn faults(&self, faults: Vec<Fault>) {
        *self.state.faults.lock().unwrap() = faults;
    }
}

impl State {
    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line.trim().is_empty() {
                break;
            }
            head.push(line.trim_end().to_owned());
        }
        let value = |name: &str| super::server::header(&head[1..], name);
        let range = value("range").map_or_else(String::new, |range| format!(" {range}"));
        self.log.lock().unwrap().push(format!("{}{range}", head[0]));
        let length = value("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        if let Some(tokens) = &self.tokens
            && let Some(answer) = self.answer_token(&head[0], value("authorization").as_deref(), tokens)
        {
            std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink())?;
            return stream.write_all(answer.as_bytes());
        }
        let fault = self.fault(&head[0]);
        if let Some(What::Status(status, headers)) = fault {
            let text =
                format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n");
            return stream.write_all(text.as_bytes());
        }
        let kept = head[1..].iter().filter(|line| {
            let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
            !["connection", "host", "authorization"].contains(&name.as_str())
        });
        // Under the proxy's name, so that the registry sends who uploads here, too.
        let mut forwarded = format!("{}\r\nHost: {}\r\nConnection: close\r\n", head[0], self.address);
        for line in kept {
            forwarded += &format!("{line}\r\n");
        }
        let mut upstream = TcpStream::connect(&self.upstream)?;
        upstream.write_all(format!("{forwarded}\r\n").as_bytes())?;
        let sent = if let Some(What::CutUpload(after)) = fault { after.min(length) } else { length };
        std::io::copy(&mut (&mut reader).take(sent), &mut upstream)?;
        if sent < length {
            return Ok(());
        }
        let mut answer = Vec::new();
        upstream.read_to_end(&mut answer)?;
        let body = answer.windows(4).position(|four| four == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
        match fault {
            Some(What::Cut(after)) => answer.truncate(body + after),
            Some(What::Deaf) => return Ok(()),
            Some(What::Half) => answer.truncate(body + (answer.len() - body) / 2),
            Some(What::Lie) if body < answer.len() => {
                let middle = body + (answer.len() - body) / 2;
                answer[middle] ^= 1;
            }
            _ => {}
        }
        stream.write_all(&answer)
    }

    /// The fault for a request, used up by one.
    fn fault(&self, line: &str) -> Option<What> {
        let mut faults = self.faults.lock().unwrap();
        let found = faults.iter_mut().find(|fault| fault.times > 0 && line.contains(fault.when))?;
        found.times -= 1;
        Some(found.what.clone())
    }

    /// What is said to who asks for a token, or has none that counts.
    fn answer_token(&self, line: &str, authorization: Option<&str>, tokens: &Tokens) -> Option<String> {
        let mut given = self.given.lock().unwrap();
        if line.contains(" /token") {
            if !tokens.password.is_empty() && authorization != Some(&format!("Basic {}", tokens.password)) {
                return Some("HTTP/1.1 401 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned());
            }
            *given += 1;
            let body = format!(r#"{{"token":"t{given}"}}"#);
            let length = body.len();
            return Some(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            ));
        }
        let number = authorization.and_then(|text| text.strip_prefix("Bearer t")?.parse::<u32>().ok());
        if number.is_some_and(|number| number > tokens.expired && number <= *given) {
            return None;
        }
        let realm = format!("http://{}/token", self.address);
        Some(format!(
            "HTTP/1.1 401 X\r\nWWW-Authenticate: Bearer realm=\"{realm}\",service=\"test\"\r\n\
             Content-Length: 0\r\nConnection: close\r\n\r\n"
        ))
    }
}
