//! An image that the Docker of this machine has, as the archive that it writes of it.
//!
//! ```text
//! GET /images/NAME/get HTTP/1.1     over /var/run/docker.sock, or what DOCKER_HOST says     a tar stream
//! ```
//!
//! The socket may be any program's: what comes is read with limits, and the archive as one from anybody.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::Ordering;

use super::scratch;
use super::token::encoded;
use super::transfer::{Part, Progress};
use crate::error::{Context, Error, Result};

/// Where Docker listens.
const SOCKET: &str = "unix:///var/run/docker.sock";
/// No head of an answer is longer.
const HEAD_BYTES: u64 = 64 << 10;
const PIECE_BYTES: usize = 256 << 10;

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// Fetches the archive of an image into a file without a name in `scratch`.
///
/// # Errors
/// A Docker that is not there, does not let us in, or has no such image.
pub fn save(name: &str, host: Option<&str>, directory: &Path, progress: &Progress) -> Result<File> {
    let host = host.filter(|host| !host.is_empty()).unwrap_or(SOCKET);
    let tried = || format!("cannot fetch {name:?} from the Docker at {host}");
    let hint = "is it running, and may you use it? DOCKER_HOST or --docker-host names another";
    let stream: Box<dyn Stream> = if let Some(path) = host.strip_prefix("unix://") {
        Box::new(UnixStream::connect(path).tried(tried).map_err(|error| error.hint(hint))?)
    } else if let Some(address) = host.strip_prefix("tcp://").or(host.strip_prefix("http://")) {
        Box::new(TcpStream::connect(address).tried(tried).map_err(|error| error.hint(hint))?)
    } else {
        return Err(Error::usage(tried()).because("skiff speaks unix://PATH and tcp://HOST:PORT alone"));
    };
    let part = progress.begin(name.to_owned(), 0);
    let mut file = scratch::file_in(directory)?;
    let mut stream = BufReader::with_capacity(PIECE_BYTES, stream);
    // "names" is a parameter, so that a name can hold slashes and colons.
    let path = format!("/images/get?{}", encoded(&[("names", name)]));
    let asked = write!(stream.get_mut(), "GET {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n");
    asked.tried(tried)?;
    let head = read_head(&mut stream).tried(tried)?;
    if head.status != 200 {
        let mut said = Vec::new();
        // What it says is for people; the status is enough.
        let _ = stream.take(HEAD_BYTES).read_to_end(&mut said);
        let said = String::from_utf8_lossy(&said);
        let said: String = said.chars().filter(|letter| !letter.is_control()).take(300).collect();
        return Err(Error::image(tried()).because(format!("it answers {}: {said}", head.status)));
    }
    let copied = match head.chunked {
        true => read_chunks(&mut stream, &mut file, &part),
        false => copy(&mut stream, &mut file, (head.length, &part)),
    };
    copied.tried(tried).map_err(|error| scratch::explain(error, directory))?;
    Ok(file)
}

struct Head {
    status: u16,
    chunked: bool,
    length: Option<u64>,
}

fn wrong(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut text = Vec::new();
    stream.take(HEAD_BYTES).read_until(b'\n', &mut text)?;
    if text.pop() != Some(b'\n') {
        return Err(wrong("the answer was cut"));
    }
    Ok(String::from_utf8_lossy(&text).trim_end().to_owned())
}

fn read_head(stream: &mut impl BufRead) -> io::Result<Head> {
    let first = line(stream)?;
    let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
    let mut head =
        Head { status: status.ok_or_else(|| wrong("that is no HTTP"))?, chunked: false, length: None };
    // A head of more lines than that is none.
    for _ in 0..200 {
        let text = line(stream)?;
        let Some((name, value)) = text.split_once(':') else { return Ok(head) };
        match name.to_ascii_lowercase().as_str() {
            "transfer-encoding" => head.chunked = value.to_ascii_lowercase().contains("chunked"),
            "content-length" => head.length = value.trim().parse().ok(),
            _ => {}
        }
    }
    Err(wrong("the head of the answer is too long"))
}

fn read_chunks(stream: &mut impl BufRead, file: &mut impl Write, part: &Part) -> io::Result<()> {
    loop {
        let size = line(stream)?;
        let size = u64::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16);
        let size = size.map_err(|_| wrong("the answer is damaged"))?;
        if size == 0 {
            return Ok(());
        }
        copy(stream, file, (Some(size), part))?;
        line(stream)?;
    }
}

fn copy(
    stream: &mut impl BufRead,
    file: &mut impl Write,
    (length, part): (Option<u64>, &Part),
) -> io::Result<()> {
    let mut left = length.unwrap_or(u64::MAX);
    while left > 0 {
        let piece = stream.fill_buf()?;
        let size = (piece.len() as u64).min(left) as usize;
        if size == 0 {
            return if length.is_some() { Err(wrong("the answer was cut")) } else { Ok(()) };
        }
        file.write_all(&piece[..size])?;
        stream.consume(size);
        left -= size as u64;
        part.done.fetch_add(size as u64, Ordering::Relaxed);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part() -> Part {
        Part { name: String::new(), size: 0, done: 0.into() }
    }

    #[test]
    fn chunks_are_put_together() {
        let mut stream: &[u8] =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n";
        let head = read_head(&mut stream).unwrap();
        assert!(head.status == 200 && head.chunked);
        let mut all = Vec::new();
        read_chunks(&mut stream, &mut all, &part()).unwrap();
        assert_eq!(all, b"abcde");
    }

    #[test]
    fn what_is_cut_is_an_error() {
        let mut all = Vec::new();
        for mut cut in [&b"3\r\nab"[..], b"ffffffffffffffffff\r\n", b"3\r\nabc\r\n", b""] {
            assert!(read_chunks(&mut cut, &mut all, &part()).is_err());
        }
        assert!(read_head(&mut &b"HTTP/1.1 200 OK\r\nA: b\r\n"[..]).is_err());
        assert!(read_head(&mut &b"x\r\n\r\n"[..]).is_err());
        assert!(copy(&mut &b"ab"[..], &mut all, (Some(3), &part())).is_err());
    }
}
