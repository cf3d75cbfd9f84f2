//! Links of functions and tracepoints through bpf(2), as bytes.

use std::sync::Arc;

use ring3_btf::{Btf, Builder, FuncLinkage, IntEncoding, Kind, TypeId};
use ring3_objects::System;
use ring3_syscall_shim::{Caller, OpenFile, Shim, VecMemory};
use ring3_tracing::TracepointSpec;
use ring3_uapi::{AttachType, Cmd, Errno, LinkType, ProgType};

struct Client {
    shim: Shim,
    caller: Caller,
    memory: VecMemory,
}

impl Client {
    fn new() -> Client {
        Client::of(System::new())
    }

    fn of(system: Arc<System>) -> Client {
        Client {
            shim: Shim::new(system),
            caller: Caller::new(),
            memory: VecMemory::new(),
        }
    }

    fn call(&mut self, cmd: Cmd, attr: &mut [u8]) -> Result<u32, Errno> {
        let result = self
            .shim
            .bpf(&self.caller, cmd.raw(), attr, &mut self.memory);
        result.map(|value| value as u32)
    }

    fn address(&mut self, bytes: &[u8]) -> u64 {
        self.memory.add(bytes)
    }

    fn load(
        &mut self,
        prog_type: ProgType,
        slots: &[u8],
        fields: &[(usize, u32)],
    ) -> Result<u32, Errno> {
        let (insns, license) = (self.address(slots), self.address(b"GPL\0"));
        let mut attr = attr::<152>(&[(0, prog_type.raw()), (4, slots.len() as u32 / 8)]);
        put_u64(&mut attr, 8, insns);
        put_u64(&mut attr, 16, license);
        for &(at, value) in fields {
            attr[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        self.call(Cmd::ProgLoad, &mut attr)
    }

    /// `struct bpf_link_info`, with a place for a name.
    fn link_info(&mut self, fd: u32, name: u64, room: u32) -> Result<Vec<u8>, Errno> {
        let mut info = [0; 64];
        put_u64(&mut info, 16, name);
        info[24..28].copy_from_slice(&room.to_ne_bytes());
        let address = self.address(&info);
        let mut attr = attr::<16>(&[(0, fd), (4, 64)]);
        put_u64(&mut attr, 8, address);
        let result = self.call(Cmd::ObjGetInfoByFd, &mut attr);
        let mut bytes = vec![0; 64];
        ring3_syscall_shim::GuestMemory::read(&self.memory, address, &mut bytes)?;
        result.map(|_| bytes)
    }
}

fn attr<const N: usize>(fields: &[(usize, u32)]) -> [u8; N] {
    let mut attr = [0; N];
    for &(at, value) in fields {
        attr[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    attr
}

fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_ne_bytes());
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

const RETURN_2: [u8; 16] = [0xb7, 0, 0, 0, 2, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
const RETURN_0: [u8; 16] = [0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];

/// An XDP program whose main function is global, with BTF, and the function's id.
fn xdp_with_btf(client: &mut Client) -> (u32, TypeId) {
    let mut builder = Builder::new();
    let int = builder.add_int("int", 4, IntEncoding::SIGNED);
    let ctx = builder.add_struct("xdp_md", 4, &[("data", int, 0)]);
    let pointer = builder.add_ref(Kind::Ptr, "", ctx);
    let proto = builder.add_func_proto(int, &[("ctx", pointer)]);
    let main = builder.add_func("filter", proto, FuncLinkage::Global);
    let blob = builder.finish();
    let address = client.address(&blob);
    let mut load = attr::<32>(&[(16, blob.len() as u32)]);
    put_u64(&mut load, 0, address);
    let btf = client.call(Cmd::BtfLoad, &mut load).unwrap();
    let func_info = client.address([0, main.0].map(u32::to_ne_bytes).as_flattened());
    let fields = [
        (72, btf),
        (76, 8),
        (80, func_info as u32),
        (84, (func_info >> 32) as u32),
        (88, 1),
    ];
    let prog = client.load(ProgType::Xdp, &RETURN_2, &fields);
    (prog.unwrap(), main)
}

fn on_function(prog: u32, function: TypeId, attach_type: u32) -> [(usize, u32); 3] {
    [(68, attach_type), (108, function.0), (112, prog)]
}

#[test]
fn functions_of_programs_are_linked_to() {
    let mut client = Client::new();
    let (xdp, main) = xdp_with_btf(&mut client);
    let fentry = AttachType::TraceFentry.raw();
    let prog = client
        .load(
            ProgType::Tracing,
            &RETURN_0,
            &on_function(xdp, main, fentry),
        )
        .unwrap();
    let create = |fields: &[(usize, u32)]| attr::<64>(fields);
    for (fields, errno) in [
        // The attach type that it was loaded for.
        (
            &[(0, prog), (8, AttachType::TraceFexit.raw())][..],
            Errno::EINVAL,
        ),
        // Target and function go together, and are for extensions.
        (&[(0, prog), (4, xdp), (8, fentry)], Errno::EINVAL),
        (&[(0, prog), (8, fentry), (16, main.0)], Errno::EINVAL),
        (
            &[(0, prog), (4, xdp), (8, fentry), (16, main.0)],
            Errno::EINVAL,
        ),
    ] {
        assert_eq!(
            client.call(Cmd::LinkCreate, &mut create(fields)),
            Err(errno),
            "{fields:?}"
        );
    }
    let link = client
        .call(
            Cmd::LinkCreate,
            &mut create(&[(0, prog), (8, fentry), (24, 77)]),
        )
        .unwrap();
    let info = client.link_info(link, 0, 0).unwrap();
    assert_eq!(u32_at(&info, 0), LinkType::Tracing.raw());
    assert_eq!(
        [16, 20, 24, 28, 32].map(|at| u32_at(&info, at)),
        [fentry, 1, main.0, 0, 77]
    );
    assert_eq!(
        client.call(Cmd::LinkDetach, &mut attr::<4>(&[(0, link)])),
        Err(Errno::EOPNOTSUPP)
    );
    let mut update = attr::<16>(&[(0, link), (4, prog)]);
    assert_eq!(
        client.call(Cmd::LinkUpdate, &mut update),
        Err(Errno::EINVAL)
    );
    // Once attached, a program on a program does not come back.
    let mut open = attr::<24>(&[(8, prog)]);
    assert_eq!(
        client.call(Cmd::RawTracepointOpen, &mut open),
        Err(Errno::EINVAL)
    );
    // An extension is kept out while the function is traced, and comes in after.
    let ext = client.load(ProgType::Ext, &RETURN_0, &on_function(xdp, main, 0));
    assert_eq!(ext, Err(Errno::EINVAL), "extensions have BTF of their own");
    client.caller.close(link as i32).unwrap();
    let second = client
        .load(
            ProgType::Tracing,
            &RETURN_0,
            &on_function(xdp, main, fentry),
        )
        .unwrap();
    let opened = client.call(Cmd::RawTracepointOpen, &mut attr::<24>(&[(8, second)]));
    assert!(opened.is_ok(), "{opened:?}");
    // Neither a program nor BTF of a kernel.
    let wrong = client.load(ProgType::Tracing, &RETURN_0, &on_function(99, main, fentry));
    assert_eq!(wrong, Err(Errno::EINVAL));
}

#[test]
fn tracepoints_are_opened_by_name() {
    let mut client = Client::new();
    let tracepoint = client
        .shim
        .tracing()
        .declare_tracepoint(TracepointSpec::new("request", 2))
        .unwrap();
    let prog = client
        .load(ProgType::RawTracepoint, &RETURN_0, &[])
        .unwrap();
    let open = |client: &mut Client, prog: u32, name: &[u8]| {
        let name = client.address(name);
        let mut attr = attr::<24>(&[(8, prog), (16, 5)]);
        put_u64(&mut attr, 0, name);
        client.call(Cmd::RawTracepointOpen, &mut attr)
    };
    assert_eq!(open(&mut client, prog, b"other\0"), Err(Errno::ENOENT));
    let link = open(&mut client, prog, b"request\0").unwrap();
    assert!(tracepoint.is_watched());
    let name = client.address(&[0xff; 16]);
    let info = client.link_info(link, name, 16).unwrap();
    assert_eq!(
        [0, 24, 32].map(|at| u32_at(&info, at)),
        [LinkType::RawTracepoint.raw(), 8, 5]
    );
    let mut text = [0; 8];
    ring3_syscall_shim::GuestMemory::read(&client.memory, name, &mut text).unwrap();
    assert_eq!(&text, b"request\0");
    assert_eq!(client.link_info(link, name, 4), Err(Errno::ENOSPC));
    assert_eq!(client.link_info(link, name, 0), Err(Errno::EINVAL));
    // Two reads of a third argument.
    let reads_third = [0x79, 0x10, 16, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
    let greedy = client
        .load(ProgType::RawTracepoint, &reads_third, &[])
        .unwrap();
    assert_eq!(open(&mut client, greedy, b"request\0"), Err(Errno::EINVAL));
    client.caller.close(link as i32).unwrap();
    assert!(!tracepoint.is_watched());
}

/// A row per map: its id, 4 bytes; at the end an `E`.
const MAP_IDS: [u8; 18 * 8] = {
    const R1: u8 = 1;
    const R2: u8 = 2;
    const R3: u8 = 3;
    const R6: u8 = 6;
    const R10: u8 = 10;
    let rows: [(u8, u8, u8, i16, i32); 18] = [
        // The file, of the meta data.
        (0x79, R6, R1, 0, 0),
        (0x79, R6, R6, 0, 0),
        (0x79, R2, R1, 8, 0),
        (0x55, R2, 0, 5, 0),
        (0x72, R10, 0, -8, 0x45),
        (0xbf, R2, R10, 0, 0),
        (0x07, R2, 0, 0, -8),
        (0xb7, R3, 0, 0, 1),
        (0x05, 0, 0, 5, 0),
        // map->id
        (0x61, R2, R2, 92, 0),
        (0x63, R10, R2, -8, 0),
        (0xbf, R2, R10, 0, 0),
        (0x07, R2, 0, 0, -8),
        (0xb7, R3, 0, 0, 4),
        (0xbf, R1, R6, 0, 0),
        (0x85, 0, 0, 0, 127),
        (0xb7, 0, 0, 0, 0),
        (0x95, 0, 0, 0, 0),
    ];
    let mut bytes = [0; 18 * 8];
    let mut at = 0;
    while at < rows.len() {
        let (code, dst, src, off, imm) = rows[at];
        let (off, imm) = (off.to_le_bytes(), imm.to_le_bytes());
        let insn = [
            code,
            dst | src << 4,
            off[0],
            off[1],
            imm[0],
            imm[1],
            imm[2],
            imm[3],
        ];
        let mut byte = 0;
        while byte < 8 {
            bytes[at * 8 + byte] = insn[byte];
            byte += 1;
        }
        at += 1;
    }
    bytes
};

#[test]
fn iterators_write_about_what_there_is() {
    let btf = include_bytes!("../../../fixtures/btf/vmlinux-6.18.btf");
    let btf = Btf::parse(btf).unwrap();
    let system = System::new();
    system.set_kernel_btf(btf.clone());
    let mut client = Client::of(system);
    let function = |name| btf.find_by_name_kind(name, Kind::Func).unwrap().0;
    let iter = AttachType::TraceIter.raw();
    let loaded = |name| [(68, iter), (108, function(name))];
    let fields = loaded("bpf_iter_bpf_map");
    let prog = client.load(ProgType::Tracing, &MAP_IDS, &fields).unwrap();
    let create = |client: &mut Client, more: &[(usize, u32)]| {
        let fields = [&[(0, prog), (8, iter)], more].concat();
        client.call(Cmd::LinkCreate, &mut attr::<64>(&fields))
    };
    for (more, errno) in [
        (&[(4, 1)][..], Errno::EINVAL),
        (&[(12, 1)], Errno::EINVAL),
        (&[(24, 16)], Errno::EINVAL),
        (&[(16, 1)], Errno::EINVAL),
        (&[(16, 1), (24, 5000)], Errno::E2BIG),
        (&[(16, 1), (24, 16)], Errno::EFAULT),
    ] {
        assert_eq!(create(&mut client, more), Err(errno), "{more:?}");
    }
    let link = create(&mut client, &[]).unwrap();
    let name = client.address(&[0xff; 16]);
    let info = client.link_info(link, name, 16).unwrap();
    assert_eq!(u32_at(&info, 0), LinkType::Iter.raw());
    assert_eq!((u32_at(&info, 24), u32_at(&info, 28)), (8, 0));
    assert_eq!(&client.memory.bytes_at(name).unwrap()[..8], b"bpf_map\0");
    let open = |client: &mut Client| {
        let fd = client.call(Cmd::IterCreate, &mut attr::<8>(&[(0, link)]))?;
        match client.caller.file(fd as i32).unwrap() {
            OpenFile::Iter(text) => Ok(text.to_vec()),
            _ => Err(Errno::EINVAL),
        }
    };
    assert_eq!(open(&mut client), Ok(b"E".to_vec()));
    for _ in 0..2 {
        let mut map = attr::<72>(&[(0, 2), (4, 4), (8, 4), (12, 1)]);
        client.call(Cmd::MapCreate, &mut map).unwrap();
    }
    assert_eq!(open(&mut client), Ok(b"\x01\0\0\0\x02\0\0\0E".to_vec()));
    for (fields, errno) in [
        ([(0, link), (4, 1)], Errno::EINVAL),
        ([(0, prog), (4, 0)], Errno::EINVAL),
        ([(0, 99), (4, 0)], Errno::EBADF),
    ] {
        let result = client.call(Cmd::IterCreate, &mut attr::<8>(&fields));
        assert_eq!(result, Err(errno), "{fields:?}");
    }
    assert_eq!(
        client.call(Cmd::LinkDetach, &mut attr::<4>(&[(0, link)])),
        Err(Errno::EOPNOTSUPP)
    );
    // Nothing stands for the kernel's tasks as a whole.
    let tasks = client.load(ProgType::Tracing, &RETURN_0, &loaded("bpf_iter_task"));
    let mut create = attr::<64>(&[(0, tasks.unwrap()), (8, iter)]);
    assert_eq!(
        client.call(Cmd::LinkCreate, &mut create),
        Err(Errno::ENOTSUPP)
    );
}
