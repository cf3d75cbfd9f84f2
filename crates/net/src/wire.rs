//! `Wire`: a device of the host as the far end of a device of the model. What the host sends there comes in, what the model sends goes out.

use std::time::Duration;

use ring3_objects::Error;
use ring3_os::{packet_socket::PacketSocket, tap::Tap};
use ring3_uapi::Errno;

/// The host's side of a device.
#[derive(Debug)]
pub struct Wire {
    name: String,
    end: End,
}

#[derive(Debug)]
enum End {
    Packet(PacketSocket),
    Tap(Tap),
}

impl Wire {
    /// An AF_PACKET socket on a device that the host has, one end of a veth pair by custom: the host's stack hears its frames too.
    ///
    /// # Errors
    /// EPERM: without CAP_NET_RAW. ENODEV: no such device.
    pub fn packet_socket(name: &str) -> Result<Wire, Error> {
        let socket = PacketSocket::open(name).map_err(|errno| host_error(errno, name))?;
        Ok(Wire {
            name: name.to_owned(),
            end: End::Packet(socket),
        })
    }

    /// A TAP device, made for this and gone with it.
    ///
    /// # Errors
    /// EPERM: without CAP_NET_ADMIN. ENOENT: the host has no TAP devices. EBUSY: the name is taken. EINVAL: no name of a device.
    pub fn tap(name: &str) -> Result<Wire, Error> {
        let tap = Tap::create(name).map_err(|errno| host_error(errno, name))?;
        Ok(Wire {
            name: name.to_owned(),
            end: End::Tap(tap),
        })
    }

    /// The next frame of the host, cut to the buffer; its length. `None` if none comes within `timeout`.
    ///
    /// # Errors
    /// ENETDOWN, EIO: the device is down.
    pub fn receive(&self, frame: &mut [u8], timeout: Duration) -> Result<Option<usize>, Error> {
        let received = match &self.end {
            End::Packet(socket) => socket.wait(timeout).and_then(|ready| match ready {
                true => socket.receive(frame).map(Some),
                false => Ok(None),
            }),
            End::Tap(tap) => tap.wait(timeout).and_then(|ready| match ready {
                true => tap.receive(frame).map(Some),
                false => Ok(None),
            }),
        };
        match received {
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            other => other.map_err(|errno| host_error(errno, &self.name)),
        }
    }

    /// Gives the host a frame.
    ///
    /// # Errors
    /// ENETDOWN, EIO: the device is down. EMSGSIZE: longer than it takes.
    pub fn send(&self, frame: &[u8]) -> Result<(), Error> {
        let sent = match &self.end {
            End::Packet(socket) => socket.send(frame),
            End::Tap(tap) => tap.send(frame),
        };
        sent.map_err(|errno| host_error(errno, &self.name))
    }
}

fn host_error(errno: Errno, name: &str) -> Error {
    Error::new(errno, format!("device '{name}' of the host"))
}
