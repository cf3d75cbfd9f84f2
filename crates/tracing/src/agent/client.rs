//! The client's side: an object goes in, records come back.

use std::{io, os::unix::net::UnixStream, path::Path};

use super::{ATTACHED, ERROR, GOING, OBJECT, RECORD, receive, send};

/// What the agent says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A program was attached: which, and where.
    Attached(String),
    /// All of them were: what happens from now on is seen.
    Going,
    /// The object was refused, and why; nothing is attached.
    Refused(String),
    /// A record of a ring buffer.
    Record {
        /// Its map.
        map: String,
        /// What the program wrote.
        data: Vec<u8>,
    },
}

/// A conversation with an agent. Its end detaches everything.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
}

impl Client {
    /// Sends an object file to the agent that listens at `path`.
    ///
    /// # Errors
    /// Nobody listens there, or nobody may ask.
    pub fn trace(path: &Path, object: &[u8]) -> io::Result<Client> {
        let mut stream = UnixStream::connect(path)?;
        send(&mut stream, OBJECT, &[object])?;
        Ok(Client { stream })
    }

    /// Waits for what the agent says next; `None` once its process is gone.
    ///
    /// # Errors
    /// The socket's, or a message that is none of the agent's.
    pub fn next_event(&mut self) -> io::Result<Option<Event>> {
        let Some((kind, body)) = receive(&mut self.stream)? else {
            return Ok(None);
        };
        let text = |body: &[u8]| String::from_utf8_lossy(body).into_owned();
        let event = match kind {
            ATTACHED => Event::Attached(text(&body)),
            GOING => Event::Going,
            ERROR => Event::Refused(text(&body)),
            RECORD => {
                let (map, data) = match body.iter().position(|&byte| byte == 0) {
                    Some(end) => (&body[..end], &body[end + 1..]),
                    None => (&body[..], &[][..]),
                };
                Event::Record {
                    map: text(map),
                    data: data.to_vec(),
                }
            }
            other => {
                let what = format!("message of unknown kind {other}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
        };
        Ok(Some(event))
    }
}
