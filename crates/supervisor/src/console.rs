//! `console`: lines over the daemon's model of devices, so that separate commands see one network.
//!
//! A request is `console`, then the folder that files are named in and the words of a line, each behind [`SEPARATOR`]. The answer is `ok` and a line
//! end, then what the line shows, to the end of the stream.

use std::{
    ffi::OsString,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};

use parking_lot::Mutex;
use ring3::net::Script;

use crate::{
    Dirs,
    client::{StartDaemon, connect_or_start},
    wire,
};

/// Between words; no word has it in it.
const SEPARATOR: char = '\x1f';

/// Executes one line in the user's daemon, in the words of `ring3_net::Script`; what it shows goes to `out`. Files are named relative to `folder`.
///
/// # Errors
/// No daemon, a word that is no text, or what the line refuses.
pub fn console(
    dirs: &Dirs,
    start: Option<&StartDaemon>,
    folder: &Path,
    words: &[OsString],
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut line = wire::CONSOLE.to_owned();
    for word in std::iter::once(folder.as_os_str()).chain(words.iter().map(OsString::as_os_str)) {
        let text = word.to_str().filter(|text| {
            !text
                .chars()
                .any(|letter| letter == SEPARATOR || letter == '\n')
        });
        let text = text.ok_or_else(|| {
            let message = format!("'{}': no text of one line", word.display());
            io::Error::new(io::ErrorKind::InvalidInput, message)
        })?;
        line.push(SEPARATOR);
        line.push_str(text);
    }
    let stream = connect_or_start(dirs, start)?;
    wire::send(&stream, &line, None)?;
    let mut answer = BufReader::new(stream);
    let mut first = String::new();
    answer.read_line(&mut first)?;
    let first = first.trim_end();
    if first != wire::OK {
        let text = match first.strip_prefix(wire::ERROR) {
            Some(text) => text.trim_start(),
            None => "the daemon hung up",
        };
        return Err(io::Error::other(text.to_owned()));
    }
    let mut part = [0; 1 << 14];
    loop {
        match answer.read(&mut part)? {
            0 => return Ok(()),
            len => out.write_all(&part[..len])?,
        }
    }
}

/// The daemon's side: executes the line of a request.
///
/// # Errors
/// What the line refuses; a reader that is gone.
pub(crate) fn serve(script: &Mutex<Script>, stream: &UnixStream, request: &str) -> io::Result<()> {
    let mut words = request.split(SEPARATOR).skip(1);
    let folder = words.next().unwrap_or("/");
    let words: Vec<&str> = words.collect();
    let mut shown = Vec::new();
    script
        .lock()
        .run_words(&words, Path::new(folder), &mut shown)
        .map_err(|error| io::Error::other(error.to_string()))?;
    wire::send(stream, wire::OK, None)?;
    let mut stream = stream;
    stream.write_all(&shown)
}
