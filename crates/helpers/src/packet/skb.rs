//! `Skb`: a linear socket buffer. Key type: [`Skb`], whose first bytes are the kernel's `struct sk_buff`.

use std::sync::Arc;

use ring3_uapi::Errno;

use super::{
    NetDevice, Sock,
    layout::{sk_buff as at, skb_cb},
    object::Object,
};

/// Bytes before the packet of a fresh buffer.
const HEADROOM_BYTES: usize = 256;
/// Bytes after the packet of a fresh buffer.
const TAILROOM_BYTES: usize = 128;
/// Bytes of an Ethernet header.
pub(super) const ETH_HEADER_BYTES: usize = 14;
/// Longest packet that helpers may make. Source: `BPF_SKB_MAX_LEN`.
pub(super) const LEN_MAX: usize = 65536;
/// `transport_header` of a packet without one.
const HEADER_UNSET: u16 = u16::MAX;

/// A packet on its way through the stack.
#[repr(C)]
pub struct Skb {
    object: Object<{ at::BYTES }>,
    /// Headroom, packet, tailroom.
    head: Vec<u8>,
    /// Where `data` points in `head`.
    data_offset: usize,
    /// Bytes from `data` to `tail`.
    len: usize,
    dev: Arc<NetDevice>,
    pub(super) state: SkbState,
}

/// What the stack knows of a packet beside the fields that programs read.
#[derive(Clone, Debug, Default)]
pub(super) struct SkbState {
    /// How far checksums were checked; `None` is not at all.
    pub(super) csum_level: Option<u8>,
    /// An outer header was put on.
    pub(super) is_encapsulated: bool,
    /// The socket it belongs to.
    pub(super) socket: Option<Arc<Sock>>,
    /// A program of a device's ingress looks at it.
    is_at_ingress: bool,
    /// Key and options of the tunnel it is meant for.
    pub(super) tunnel: Option<Box<super::tunnel::TunnelInfo>>,
}

impl Skb {
    /// A received Ethernet frame of at least 14 bytes on `dev`, `data` at the link header as the tc hooks see it.
    ///
    /// # Errors
    /// EINVAL: shorter than an Ethernet header, or longer than 65536 bytes.
    ///
    /// # Source
    /// What BPF_PROG_TEST_RUN of Linux 6.18 shows of a fresh packet.
    pub fn received(frame: &[u8], dev: &Arc<NetDevice>) -> Result<Box<Skb>, Errno> {
        let mut skb = Box::new(Skb {
            object: Object::zeroed(),
            head: Vec::new(),
            data_offset: 0,
            len: 0,
            dev: Arc::clone(dev),
            state: SkbState::default(),
        });
        skb.refill(frame, dev)?;
        Ok(skb)
    }

    /// A packet of this host, before it has a link header or a device; `protocol` as on the wire.
    ///
    /// # Errors
    /// EINVAL: longer than 65522 bytes.
    pub fn outgoing(
        packet: &[u8],
        protocol: [u8; 2],
        dev: &Arc<NetDevice>,
    ) -> Result<Box<Skb>, Errno> {
        let mut skb = Skb::received(&[&[0; ETH_HEADER_BYTES][..], packet].concat(), dev)?;
        skb.pull(ETH_HEADER_BYTES)?;
        let object = &mut skb.object;
        object.set(at::PROTOCOL, &protocol);
        object.set_u64(at::DEV, 0);
        object.set_u16(at::MAC_HEADER, HEADER_UNSET);
        object.set_u16(at::NETWORK_HEADER, 0);
        object.set_u16(at::MAC_LEN, 0);
        Ok(skb)
    }

    /// Makes this a freshly received frame, in the memory it has.
    ///
    /// # Errors
    /// As [`Skb::received`]; the packet is unchanged then.
    pub fn refill(&mut self, frame: &[u8], dev: &Arc<NetDevice>) -> Result<(), Errno> {
        if frame.len() < ETH_HEADER_BYTES || frame.len() > LEN_MAX {
            return Err(Errno::EINVAL);
        }
        let end = HEADROOM_BYTES + frame.len();
        if self.head.len() < end + TAILROOM_BYTES {
            self.head.resize(end + TAILROOM_BYTES, 0);
        }
        self.head[HEADROOM_BYTES..end].copy_from_slice(frame);
        self.object.clear();
        self.data_offset = HEADROOM_BYTES;
        self.len = frame.len();
        if !Arc::ptr_eq(&self.dev, dev) {
            self.dev = Arc::clone(dev);
        }
        self.state = SkbState::default();
        self.object.set(at::PROTOCOL, &ethernet_protocol(frame));
        self.object.set_u8(at::PKT_TYPE, packet_type(frame));
        self.object.set_u16(at::MAC_HEADER, HEADROOM_BYTES as u16);
        self.object.set_u16(
            at::NETWORK_HEADER,
            (HEADROOM_BYTES + ETH_HEADER_BYTES) as u16,
        );
        self.object.set_u16(at::TRANSPORT_HEADER, HEADER_UNSET);
        self.object.set_u16(at::MAC_LEN, ETH_HEADER_BYTES as u16);
        self.object.set_u64(at::DEV, self.dev.program_ptr());
        self.refresh();
        Ok(())
    }

    /// Cookie of the packet's socket, 0 without one.
    pub(super) fn socket_cookie(&self) -> u64 {
        self.state
            .socket
            .as_ref()
            .map_or(0, |sock| sock.spec().cookie)
    }

    /// Owner of the packet's socket; the overflow id without one.
    pub(super) fn socket_uid(&self) -> u32 {
        const OVERFLOW_UID: u32 = 65534;
        self.state
            .socket
            .as_ref()
            .filter(|sock| sock.spec().cookie != 0)
            .map_or(OVERFLOW_UID, |sock| sock.spec().uid)
    }

    /// Says which socket the packet belongs to.
    pub fn set_socket(&mut self, socket: Option<Arc<Sock>>) {
        let address = socket.as_ref().map_or(0, |sock| sock.program_ptr());
        self.object.set_u64(at::SK, address);
        self.state.socket = socket;
    }

    /// Says whether programs of a device's ingress look at it now: only they may give it another socket.
    pub fn set_at_ingress(&mut self, is_at_ingress: bool) {
        self.state.is_at_ingress = is_at_ingress;
    }

    /// Gives the packet to another socket: `bpf_sk_assign`.
    ///
    /// # Errors
    /// EINVAL: no socket, or flags. EOPNOTSUPP: the packet is not at a device's ingress, or the socket has no port.
    pub(super) fn assign_socket(&mut self, sock: Option<&Sock>, flags: u64) -> Result<(), Errno> {
        let sock = sock.filter(|_| flags == 0).ok_or(Errno::EINVAL)?;
        if !self.state.is_at_ingress || sock.spec().local.1 == 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let before = self.state.socket.take();
        self.set_socket(Some(sock.to_arc()));
        if let Some(before) = before {
            // The program may have read its address.
            ring3_sync::rcu::drop_rcu(before);
        }
        Ok(())
    }

    /// Id of the socket's cgroup at a level, the root being 0; 0 where there is none.
    pub(super) fn cgroup_id(&self, level: impl FnOnce(usize) -> Option<usize>) -> u64 {
        let find = |sock: &Arc<Sock>| {
            let cgroups = &sock.spec().cgroups;
            let deepest = cgroups.len().checked_sub(1)?;
            cgroups.get(level(deepest)?).copied()
        };
        self.state.socket.as_ref().and_then(find).unwrap_or(0)
    }

    /// Hands the packet to another device: what programs see as `ifindex`.
    pub fn set_device(&mut self, dev: &Arc<NetDevice>) {
        if !Arc::ptr_eq(&self.dev, dev) {
            self.dev = Arc::clone(dev);
        }
        self.object.set_u64(at::DEV, self.dev.program_ptr());
    }

    /// The pointer that programs get as their context.
    pub fn program_ptr(&mut self) -> u64 {
        std::ptr::from_mut(self).expose_provenance() as u64
    }

    /// The packet from `data` on.
    pub fn data(&self) -> &[u8] {
        &self.head[self.data_offset..self.data_offset + self.len]
    }

    /// The packet from `data` on, writable.
    pub fn data_mut(&mut self) -> &mut [u8] {
        &mut self.head[self.data_offset..self.data_offset + self.len]
    }

    /// The whole frame from its link header on, wherever `data` points.
    pub fn frame(&self) -> &[u8] {
        let start = usize::from(self.object.u16(at::MAC_HEADER)).min(self.data_offset);
        &self.head[start..self.data_offset + self.len]
    }

    /// The device it came in on.
    pub fn device(&self) -> &Arc<NetDevice> {
        &self.dev
    }

    /// Takes bytes off the front (`skb_pull`).
    ///
    /// # Errors
    /// EINVAL: more than the packet has.
    pub fn pull(&mut self, bytes: usize) -> Result<(), Errno> {
        if bytes > self.len {
            return Err(Errno::EINVAL);
        }
        self.data_offset += bytes;
        self.len -= bytes;
        self.refresh();
        Ok(())
    }

    /// Gives back bytes that [`Skb::pull`] took.
    pub fn unpull(&mut self, bytes: usize) {
        self.push(bytes);
    }

    /// Gives bytes at the front, with the content they have; room is made as needed, and new room is zero.
    pub(super) fn push(&mut self, bytes: usize) {
        if bytes > self.data_offset {
            let grow = bytes - self.data_offset + HEADROOM_BYTES;
            self.head.splice(0..0, std::iter::repeat_n(0, grow));
            self.data_offset += grow;
            for header in [at::MAC_HEADER, at::NETWORK_HEADER, at::TRANSPORT_HEADER] {
                let offset = self.object.u16(header);
                if offset != HEADER_UNSET {
                    self.object
                        .set_u16(header, offset.wrapping_add(grow as u16));
                }
            }
        }
        self.data_offset -= bytes;
        self.len += bytes;
        self.refresh();
    }

    /// Sets the length: zeros are appended, or the tail is cut.
    pub(super) fn set_len(&mut self, len: usize) {
        let tail = self.data_offset + self.len;
        let new_tail = self.data_offset + len;
        if new_tail > self.head.len() {
            self.head.resize(new_tail + TAILROOM_BYTES, 0);
        }
        if new_tail > tail {
            self.head[tail..new_tail].fill(0);
        }
        self.len = len;
        self.refresh();
    }

    /// The link header now begins at `data`.
    pub(super) fn reset_mac_header(&mut self) {
        self.object.set_u16(at::MAC_HEADER, self.data_offset as u16);
        let network = self.object.u16(at::NETWORK_HEADER);
        self.object
            .set_u16(at::MAC_LEN, network.wrapping_sub(self.data_offset as u16));
    }

    /// Bytes from `data` to the link header; negative if it was pulled.
    pub(super) fn mac_offset(&self) -> isize {
        self.object.u16(at::MAC_HEADER) as isize - self.data_offset as isize
    }

    /// Bytes of the link header, up to the network header.
    pub(super) fn mac_header_len(&self) -> usize {
        let network = self.object.u16(at::NETWORK_HEADER);
        usize::from(network.saturating_sub(self.object.u16(at::MAC_HEADER)))
    }

    /// Takes `len` bytes out behind the first `offset`, headers along.
    ///
    /// # Errors
    /// ENOMEM: there are not that many.
    pub(super) fn cut_behind(&mut self, offset: usize, len: usize) -> Result<(), Errno> {
        if offset + len > self.len {
            return Err(Errno::ENOMEM);
        }
        let start = self.data_offset;
        self.head.copy_within(start..start + offset, start + len);
        self.data_offset += len;
        self.len -= len;
        self.move_headers(len as i32);
        self.refresh();
        Ok(())
    }

    /// Puts `len` zero bytes behind the first `offset`, headers along.
    ///
    /// # Errors
    /// EFAULT: the packet is shorter than `offset`.
    pub(super) fn open_behind(&mut self, offset: usize, len: usize) -> Result<(), Errno> {
        if offset > self.len {
            return Err(Errno::EFAULT);
        }
        self.push(len);
        let start = self.data_offset;
        self.head
            .copy_within(start + len..start + len + offset, start);
        self.head[start + offset..start + offset + len].fill(0);
        self.move_headers(-(len as i32));
        Ok(())
    }

    /// Link and network header move; a transport header that was the network header stays that.
    fn move_headers(&mut self, by: i32) {
        let moved = |offset: u16| offset.wrapping_add(by as u16);
        let network = self.object.u16(at::NETWORK_HEADER);
        let is_same = self.object.u16(at::TRANSPORT_HEADER) == network;
        self.object
            .set_u16(at::MAC_HEADER, moved(self.object.u16(at::MAC_HEADER)));
        self.object.set_u16(at::NETWORK_HEADER, moved(network));
        if is_same {
            self.object.set_u16(at::TRANSPORT_HEADER, moved(network));
        }
    }

    /// Moves only the link header.
    pub(super) fn move_mac_header(&mut self, by: i32) {
        let offset = self.object.u16(at::MAC_HEADER).wrapping_add(by as u16);
        self.object.set_u16(at::MAC_HEADER, offset);
    }

    /// Puts the network header `offset` bytes behind `data`.
    pub(super) fn set_network_offset(&mut self, offset: isize) {
        let at_head = self.data_offset as isize + offset;
        self.object.set_u16(at::NETWORK_HEADER, at_head as u16);
    }

    /// Puts the transport header `offset` bytes behind `data`.
    pub(super) fn set_transport_offset(&mut self, offset: usize) {
        self.object
            .set_u16(at::TRANSPORT_HEADER, (self.data_offset + offset) as u16);
    }

    /// `mac_len` becomes the distance of the two headers.
    pub(super) fn reset_mac_len(&mut self) {
        let len = self.mac_header_len() as u16;
        self.object.set_u16(at::MAC_LEN, len);
    }

    /// Bytes from `data` to the network header; negative if it was pulled.
    pub(super) fn network_offset(&self) -> isize {
        isize::try_from(self.object.u16(at::NETWORK_HEADER)).unwrap_or(0)
            - self.data_offset as isize
    }

    /// Bytes from `data` to the transport header, if it is known.
    pub(super) fn transport_offset(&self) -> Option<isize> {
        let offset = self.object.u16(at::TRANSPORT_HEADER);
        (offset != HEADER_UNSET).then(|| offset as isize - self.data_offset as isize)
    }

    /// Writes pointers and lengths to the kernel's object.
    fn refresh(&mut self) {
        let head = self.head.as_mut_ptr().expose_provenance() as u64;
        let data = head + self.data_offset as u64;
        self.object.set_u64(at::HEAD, head);
        self.object.set_u64(at::DATA, data);
        self.object
            .set_u32(at::TAIL, (self.data_offset + self.len) as u32);
        self.object.set_u32(at::END, self.head.len() as u32);
        self.object.set_u32(at::LEN, self.len as u32);
        self.object.set_u32(at::TRUESIZE, self.head.len() as u32);
        self.object.set_u64(at::CB + skb_cb::DATA_META, data);
        self.object
            .set_u64(at::CB + skb_cb::DATA_END, data + self.len as u64);
    }

    /// Network protocol in network byte order.
    pub fn protocol(&self) -> [u8; 2] {
        self.object.u16(at::PROTOCOL).to_ne_bytes()
    }

    /// Sets the network protocol, in network byte order.
    pub(super) fn set_protocol(&mut self, protocol: [u8; 2]) {
        self.object.set(at::PROTOCOL, &protocol);
    }

    /// Sets the VLAN tag beside the packet; all zero is none.
    pub(super) fn set_vlan(&mut self, protocol: [u8; 2], tci: u16) {
        self.object.set(at::VLAN_PROTO, &protocol);
        self.object.set_u16(at::VLAN_TCI, tci);
    }

    /// Sets `pkt_type`.
    pub(super) fn set_pkt_type(&mut self, pkt_type: u8) {
        let others = self.object.u8(at::PKT_TYPE) & !7;
        self.object.set_u8(at::PKT_TYPE, others | (pkt_type & 7));
    }

    /// Whether a flow hash is known.
    pub(super) fn has_hash(&self) -> bool {
        self.object.u8(at::HASH_FLAGS) & 0b110 != 0
    }

    /// Metadata before the packet, for the tc hooks of a device whose XDP program left some.
    pub fn set_metadata(&mut self, metadata: &[u8]) {
        let start = self.data_offset.saturating_sub(metadata.len());
        let kept = self.data_offset - start;
        self.head[start..self.data_offset].copy_from_slice(&metadata[metadata.len() - kept..]);
        let data = self.object.u64(at::DATA);
        self.object
            .set_u64(at::CB + skb_cb::DATA_META, data - kept as u64);
    }

    /// Clears the class before a program runs.
    pub fn clear_tc_classid(&mut self) {
        self.object.set_u16(at::CB + skb_cb::TC_CLASSID, 0);
    }

    /// The class a classifier returned in `tc_classid`.
    pub fn tc_classid(&self) -> u32 {
        u32::from(self.object.u16(at::CB + skb_cb::TC_CLASSID))
    }

    /// Flow hash, 0 if none was set.
    pub(super) fn set_hash(&mut self, hash: u32) {
        self.object.set_u32(at::HASH, hash);
        // l4_hash and sw_hash: set by software.
        let flags = self.object.u8(at::HASH_FLAGS) & !0b110;
        self.object.set_u8(at::HASH_FLAGS, flags | 0b100);
    }

    /// Forgets the flow hash.
    pub(crate) fn clear_hash(&mut self) {
        self.object.set_u32(at::HASH, 0);
        self.object
            .set_u8(at::HASH_FLAGS, self.object.u8(at::HASH_FLAGS) & !0b110);
    }
}

/// Scalar fields that `BPF_PROG_TEST_RUN` takes in and gives out.
impl Skb {
    /// `mark`
    pub fn mark(&self) -> u32 {
        self.object.u32(at::MARK)
    }

    /// Sets `mark`.
    pub fn set_mark(&mut self, mark: u32) {
        self.object.set_u32(at::MARK, mark);
    }

    /// `priority`
    pub fn priority(&self) -> u32 {
        self.object.u32(at::PRIORITY)
    }

    /// Sets `priority`.
    pub fn set_priority(&mut self, priority: u32) {
        self.object.set_u32(at::PRIORITY, priority);
    }

    /// `tstamp` in nanoseconds.
    pub fn tstamp(&self) -> u64 {
        self.object.u64(at::TSTAMP)
    }

    /// Sets `tstamp`.
    pub fn set_tstamp(&mut self, tstamp: u64) {
        self.object.set_u64(at::TSTAMP, tstamp);
    }

    /// Device the packet was first received on.
    pub fn ingress_ifindex(&self) -> u32 {
        self.object.u32(at::SKB_IIF)
    }

    /// Sets the device the packet was first received on.
    pub fn set_ingress_ifindex(&mut self, ifindex: u32) {
        self.object.set_u32(at::SKB_IIF, ifindex);
    }

    /// `tc_index`
    pub fn tc_index(&self) -> u16 {
        self.object.u16(at::TC_INDEX)
    }

    /// Sets `tc_index`.
    pub fn set_tc_index(&mut self, tc_index: u16) {
        self.object.set_u16(at::TC_INDEX, tc_index);
    }

    /// `queue_mapping`
    pub fn queue_mapping(&self) -> u16 {
        self.object.u16(at::QUEUE_MAPPING)
    }

    /// VLAN protocol (network order) and tag control information.
    pub fn vlan(&self) -> ([u8; 2], u16) {
        (
            self.object.u16(at::VLAN_PROTO).to_ne_bytes(),
            self.object.u16(at::VLAN_TCI),
        )
    }

    /// `hash`
    pub fn hash(&self) -> u32 {
        self.object.u32(at::HASH)
    }

    /// `pkt_type`: 0 host, 1 broadcast, 2 multicast, 3 other host.
    pub fn pkt_type(&self) -> u32 {
        u32::from(self.object.u8(at::PKT_TYPE) & 7)
    }

    /// The program's control block, 20 bytes.
    pub fn cb(&self) -> [u8; skb_cb::DATA_BYTES] {
        let start = at::CB + skb_cb::DATA;
        std::array::from_fn(|i| self.object.bytes()[start + i])
    }

    /// Sets the program's control block.
    pub fn set_cb(&mut self, cb: &[u8; skb_cb::DATA_BYTES]) {
        self.object.set(at::CB + skb_cb::DATA, cb);
    }
}

/// The EtherType, or 802.2 where the field is a length.
fn ethernet_protocol(frame: &[u8]) -> [u8; 2] {
    const ETH_P_802_3_MIN: u16 = 0x0600;
    const ETH_P_802_2: u16 = 0x0004;
    const ETH_P_802_3: u16 = 0x0001;
    let field = u16::from_be_bytes([frame[12], frame[13]]);
    if field >= ETH_P_802_3_MIN {
        return field.to_be_bytes();
    }
    match frame.get(14..16) {
        Some([0xff, 0xff]) => ETH_P_802_3.to_be_bytes(),
        _ => ETH_P_802_2.to_be_bytes(),
    }
}

/// By destination address, as seen by a device whose own address is zero.
fn packet_type(frame: &[u8]) -> u8 {
    const HOST: u8 = 0;
    const BROADCAST: u8 = 1;
    const MULTICAST: u8 = 2;
    const OTHER_HOST: u8 = 3;
    match &frame[..6] {
        [0, 0, 0, 0, 0, 0] => HOST,
        [0xff, 0xff, 0xff, 0xff, 0xff, 0xff] => BROADCAST,
        address if address[0] & 1 == 1 => MULTICAST,
        _ => OTHER_HOST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skb() -> Box<Skb> {
        let frame: Vec<u8> = (0..60)
            .map(|i| {
                if i == 12 {
                    8
                } else if i == 13 {
                    0
                } else {
                    i
                }
            })
            .collect();
        Skb::received(&frame, &NetDevice::new(1, "lo", 65536)).unwrap()
    }

    #[test]
    fn the_object_shows_the_packet() {
        let skb = skb();
        assert_eq!(skb.object.u32(at::LEN), 60);
        assert_eq!(
            skb.object.u64(at::CB + skb_cb::DATA_END) - skb.object.u64(at::DATA),
            60
        );
        assert_eq!(skb.protocol(), [8, 0]);
        assert_eq!(skb.network_offset(), 14);
        assert_eq!(skb.transport_offset(), None);
    }

    #[test]
    fn push_beyond_the_headroom_keeps_content_and_headers() {
        let mut skb = skb();
        skb.push(300);
        assert_eq!(skb.data().len(), 360);
        assert_eq!(skb.data()[300..305], [0, 1, 2, 3, 4]);
        assert_eq!(skb.network_offset(), 314);
        assert_eq!(skb.frame().len(), 360);
    }

    #[test]
    fn growing_gives_zeros_and_a_short_frame_is_refused() {
        let mut skb = skb();
        skb.set_len(30);
        skb.set_len(600);
        assert_eq!(skb.data()[29..32], [29, 0, 0]);
        assert_eq!(skb.data().len(), 600);
        assert_eq!(
            Skb::received(&[0; 13], skb.device()).err(),
            Some(Errno::EINVAL)
        );
    }
}
