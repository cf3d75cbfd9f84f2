//! The corpus of BPF_PROG_LOAD calls with a kernel's answers: one row of `verdicts.jsonl` per program, the call in
//! `PATH.json`, the log in `PATH.log`. Key types: [`Corpus`], [`Row`]. Neighbour: `parity` compares ring3 with it.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use hashbrown::HashMap;
use ring3_btf::{Btf, DESTRUCTIBLE_6_18, FieldMask, KernelTypes, Record, TypeId};
use ring3_isa::RawInsn;
use ring3_spec::kfunc::{KfuncFilter, KfuncFlags, KfuncHook, KfuncRow};
use ring3_spec::{
    AttachTarget, FdObject, InfoRecords, LoadRequest, MapInfo, Privilege, ProgTarget,
    ProgTargetSubprog, Registry,
};
use ring3_uapi::{MapType, ProgType, flags::prog_load};
use ring3_verifier::{Log, verify};
use serde_json::Value;

/// A folder in the corpus format, with its BTF blobs parsed at most once per thread.
pub struct Corpus {
    dir: PathBuf,
    btfs: RefCell<HashMap<String, Option<Btf>>>,
}

/// One program: what the kernel answered.
#[derive(Clone, Debug)]
pub struct Row {
    /// Set, such as `selftests-6.18`.
    pub set: String,
    /// Path below the corpus folder, without extension.
    pub path: String,
    /// `untyped`, `typed-context` or `kernel-objects`.
    pub subset: String,
    /// Why the row does not bind, if it does not.
    pub reference: Option<String>,
    /// Positive errno, 0 if accepted.
    pub errno: i32,
    /// Last message of the log before the statistics.
    pub msg: String,
    /// Instructions processed.
    pub processed: u64,
    /// `max_states_per_insn`, `total_states`, `peak_states`.
    pub states: [u64; 3],
    /// Whether the kernel's log buffer was too small.
    pub log_truncated: bool,
    /// The kernel's BPF_PROG_LOAD time at log level 0, in nanoseconds; 0 if not recorded.
    pub load_ns: u64,
}

/// Maps of a call, and which descriptors name them.
type MapsByFd = (Vec<Arc<MapInfo>>, BTreeMap<i32, FdObject>);

/// Descriptor of the test module's BTF, which no map has.
const MODULE_FD: i32 = i32::MAX;

/// BTF of the kernel that a set was recorded on.
fn kernel_of(set: &str) -> &'static str {
    if set.ends_with("6.18") {
        "vmlinux-6.18.btf"
    } else {
        "vmlinux-6.12.btf"
    }
}

/// Rows of the test module's functions that the corpus calls; they are part of no kernel.
const MODULE_KFUNCS: &[KfuncRow] = &[
    KfuncRow {
        name: "bpf_kfunc_call_test_acquire",
        flags: KfuncFlags::ACQUIRE.or(KfuncFlags::RET_NULL),
        hooks: &[KfuncHook::Tc, KfuncHook::Tracing, KfuncHook::Syscall],
        filter: KfuncFilter::Any,
    },
    KfuncRow {
        name: "bpf_kfunc_call_test_ref",
        flags: KfuncFlags::TRUSTED_ARGS.or(KfuncFlags::RCU),
        hooks: &[KfuncHook::Tc, KfuncHook::Tracing, KfuncHook::Syscall],
        filter: KfuncFilter::Any,
    },
    KfuncRow {
        name: "bpf_kfunc_st_ops_inc10",
        flags: KfuncFlags::TRUSTED_ARGS,
        hooks: &[KfuncHook::Tc, KfuncHook::StructOps, KfuncHook::Syscall],
        filter: KfuncFilter::Any,
    },
];

/// What the corpus is judged by: the reference kernel's rows and those of the test module.
pub fn registry() -> Registry {
    let mut registry = Registry::linux_6_18();
    for row in MODULE_KFUNCS {
        registry
            .register_kfunc(*row)
            .expect("the kernel has no function of the test module");
    }
    registry
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_default()
}

fn hex(value: &Value, key: &str) -> io::Result<Vec<u8>> {
    let text = value[key].as_str().unwrap_or_default().as_bytes();
    let digit = |c: u8| {
        (c as char)
            .to_digit(16)
            .ok_or_else(|| invalid(format!("{key}: not hex")))
    };
    if !text.len().is_multiple_of(2) {
        return Err(invalid(format!("{key}: odd number of hex digits")));
    }
    text.chunks_exact(2)
        .map(|pair| Ok((digit(pair[0])? << 4 | digit(pair[1])?) as u8))
        .collect()
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

impl Corpus {
    /// Opens the folder; nothing is read yet.
    pub fn open(dir: &Path) -> Corpus {
        Corpus {
            dir: dir.to_owned(),
            btfs: RefCell::default(),
        }
    }

    /// As [`Corpus::open`], with other types in the place of those of the 6.18 kernel that recorded it.
    pub fn with_types(dir: &Path, types: Btf) -> Corpus {
        let corpus = Corpus::open(dir);
        let name = kernel_of("6.18").to_owned();
        corpus.btfs.borrow_mut().insert(name, Some(types));
        corpus
    }

    /// Every row of `verdicts.jsonl`, in file order.
    ///
    /// # Errors
    /// The file is missing or a line is not JSON.
    pub fn rows(&self) -> io::Result<Vec<Row>> {
        let file = self.dir.join("verdicts.jsonl");
        let all = fs::read_to_string(&file).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", file.display()))
        })?;
        all.lines()
            .enumerate()
            .map(|(line_idx, line)| {
                let row: Value = serde_json::from_str(line).map_err(|error| {
                    invalid(format!("{}:{}: {error}", file.display(), line_idx + 1))
                })?;
                Ok(Row {
                    set: text(&row, "set"),
                    path: text(&row, "path"),
                    subset: text(&row, "subset"),
                    reference: row["reference"].as_str().map(str::to_owned),
                    errno: number(&row, "errno") as i32,
                    msg: text(&row, "msg"),
                    processed: number(&row, "processed"),
                    states: ["max_states_per_insn", "total_states", "peak_states"]
                        .map(|key| number(&row, key)),
                    log_truncated: row["log_truncated"].as_bool().unwrap_or(false),
                    load_ns: number(&row, "load_ns_log0"),
                })
            })
            .collect()
    }

    /// The kernel's log of a row at level 2 | 4, `None` where it was left out.
    pub fn log(&self, row: &Row) -> Option<String> {
        fs::read(self.file(row, "log"))
            .ok()
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The program after the kernel's rewrites, empty where it was rejected.
    ///
    /// # Errors
    /// The row's call cannot be read.
    pub fn xlated(&self, row: &Row) -> io::Result<Vec<RawInsn>> {
        insns(&hex(&self.call(row)?, "xlated")?)
    }

    /// The call of a row as the verifier takes it.
    ///
    /// # Errors
    /// The row's call or a BTF blob it names cannot be read.
    pub fn request(&self, row: &Row) -> io::Result<LoadRequest> {
        let mut request = self.request_of(&self.call(row)?, &row.set)?;
        let target = text(&self.call(row)?, "attach_prog");
        if !target.is_empty() {
            let target = self.request_of(
                &self.read_call(&self.dir.join(format!("{target}.json")))?,
                &row.set,
            )?;
            request.attach = AttachTarget::Prog(Arc::new(loaded_target(&target)));
        }
        Ok(request)
    }

    fn request_of(&self, call: &Value, set: &str) -> io::Result<LoadRequest> {
        let raw_type = number(call, "prog_type") as u32;
        let prog_type = ProgType::from_raw(raw_type)
            .ok_or_else(|| invalid(format!("{set}: program type {raw_type}")))?;
        let mut request = LoadRequest::new(prog_type, insns(&hex(call, "insns")?)?);
        request.expected_attach_type = number(call, "expected_attach_type") as u32;
        request.flags = number(call, "prog_flags") as u32;
        request.name = text(call, "name");
        request.license = text(call, "license");
        request.kern_version = number(call, "kern_version") as u32;
        request.btf = self.btf(&text(call, "prog_btf"))?;
        request.func_info = records(call, "func_info")?;
        request.line_info = records(call, "line_info")?;
        request.kernel_btf = self.btf(kernel_of(set))?;
        request.attach_btf_id = TypeId(number(call, "attach_btf_id") as u32);
        if let Some(module) = self.btf(&text(call, "attach_btf"))? {
            request.attach = AttachTarget::Btf(module);
        }
        // 6.12 was built with KALLSYMS_ALL.
        request.kernel_variables = set.ends_with("6.12");
        request.privilege = if set.starts_with("unprivileged") {
            Privilege::NONE
        } else if set.starts_with("noperfmon") {
            // Recorded without CAP_PERFMON and CAP_SYS_ADMIN.
            Privilege {
                perfmon: false,
                sys_admin: false,
                ..Privilege::FULL
            }
        } else {
            Privilege::FULL
        };
        (request.maps, request.fds) = self.maps(call, kernel_of(set))?;
        self.add_module(&mut request, set)?;
        Ok(request)
    }

    /// Calls of kernel functions of a module carry no fd_array: they are of the test module, where its functions have
    /// those ids.
    fn add_module(&self, request: &mut LoadRequest, set: &str) -> io::Result<()> {
        let last = request
            .insns
            .iter()
            .filter(|insn| insn.code == 0x85 && insn.src() == 2)
            .map(|insn| insn.off)
            .max();
        let Some(last) = last.filter(|last| *last > 0 && set.ends_with("6.12")) else {
            return Ok(());
        };
        let Some(module) = self.btf("bpf_testmod-6.12.btf")? else {
            return Ok(());
        };
        request.fd_array = Some(vec![MODULE_FD; last as usize + 1]);
        request.fds.insert(MODULE_FD, FdObject::Btf(module));
        Ok(())
    }

    fn maps(&self, call: &Value, kernel: &str) -> io::Result<MapsByFd> {
        let mut maps = Vec::new();
        let mut fds = BTreeMap::new();
        for (fd, map) in call["maps"].as_array().into_iter().flatten().enumerate() {
            // A map of type 0 is a deliberately bad fd: open, but no map.
            if number(map, "type") == 0 {
                fds.insert(fd as i32, FdObject::Other);
                continue;
            }
            fds.insert(fd as i32, FdObject::Map(maps.len()));
            maps.push(Arc::new(self.map(map, fd as u32 + 1, kernel)?));
        }
        Ok((maps, fds))
    }

    fn map(&self, map: &Value, id: u32, kernel: &str) -> io::Result<MapInfo> {
        let raw_type = number(map, "type") as u32;
        let frozen = map["frozen"].as_bool().unwrap_or(false);
        let btf = self.btf(&text(map, "btf"))?;
        let value_type_id = TypeId(number(map, "btf_value_type_id") as u32);
        let kernel_btf = self.btf(kernel)?;
        let record = match &btf {
            Some(btf) if value_type_id.0 != 0 => {
                // A record that the types of 6.18 do not explain (a map of an older kernel) is left out.
                let kernel = kernel_btf.as_ref().map(|btf| KernelTypes {
                    btf,
                    destructible: DESTRUCTIBLE_6_18,
                });
                Record::parse(
                    btf,
                    value_type_id,
                    FieldMask::MAP_VALUE,
                    number(map, "value_size") as u32,
                    kernel,
                )
                .ok()
                .flatten()
                .map(Arc::new)
            }
            _ => None,
        };
        Ok(MapInfo {
            id,
            map_type: MapType::from_raw(raw_type)
                .ok_or_else(|| invalid(format!("map type {raw_type}")))?,
            name: text(map, "name"),
            key_size: number(map, "key_size") as u32,
            value_size: number(map, "value_size") as u32,
            max_entries: number(map, "max_entries") as u32,
            map_flags: number(map, "map_flags") as u32,
            map_extra: number(map, "map_extra"),
            frozen,
            contents: if frozen {
                Some(Arc::from(hex(map, "init")?))
            } else {
                None
            },
            btf,
            key_type_id: TypeId(number(map, "btf_key_type_id") as u32),
            value_type_id,
            record,
            inner: match map.get("inner") {
                Some(inner) if inner.is_object() => Some(Arc::new(self.map(inner, id, kernel)?)),
                _ => None,
            },
        })
    }

    fn btf(&self, name: &str) -> io::Result<Option<Btf>> {
        if name.is_empty() {
            return Ok(None);
        }
        if let Some(known) = self.btfs.borrow().get(name) {
            return Ok(known.clone());
        }
        let file = self.dir.join("btf").join(name);
        let bytes = fs::read(&file).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", file.display()))
        })?;
        let parsed = match name.strip_prefix("bpf_testmod-") {
            Some(kernel) => match self.btf(&format!("vmlinux-{kernel}"))? {
                Some(base) => Btf::parse_split(&base, &bytes),
                None => Btf::parse(&bytes),
            },
            None => Btf::parse(&bytes),
        };
        // A blob that the kernel refused may be part of a row; the request then has none.
        let btf = parsed.ok();
        self.btfs.borrow_mut().insert(name.to_owned(), btf.clone());
        Ok(btf)
    }

    fn call(&self, row: &Row) -> io::Result<Value> {
        self.read_call(&self.file(row, "json"))
    }

    fn read_call(&self, file: &Path) -> io::Result<Value> {
        let all = fs::read(file).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", file.display()))
        })?;
        serde_json::from_slice(&all)
            .map_err(|error| invalid(format!("{}: {error}", file.display())))
    }

    fn file(&self, row: &Row, extension: &str) -> PathBuf {
        self.dir.join(format!("{}.{extension}", row.path))
    }
}

/// What a program says of itself once it is loaded; a target that we cannot judge yet has no functions.
fn loaded_target(request: &LoadRequest) -> ProgTarget {
    let program = verify(request, &registry(), &mut Log::off()).ok();
    let exception_cb = program.as_ref().and_then(|program| program.exception_cb);
    let subprogs = program.map_or_else(Vec::new, |program| program.subprogs);
    ProgTarget {
        prog_type: request.prog_type,
        expected_attach_type: request.expected_attach_type,
        btf: request.btf.clone(),
        sleepable: request.flags & prog_load::SLEEPABLE != 0,
        jited: true,
        attaches_to_prog: matches!(request.attach, AttachTarget::Prog(_)),
        subprogs: subprogs
            .iter()
            .zip(0..)
            .map(|(subprog, index)| ProgTargetSubprog {
                type_id: TypeId(subprog.type_id),
                is_global: subprog.is_global,
                is_exception_cb: exception_cb == Some(index),
                unreliable: subprog.unreliable,
                changes_pkt_data: subprog.changes_pkt_data,
                might_sleep: subprog.might_sleep,
            })
            .collect(),
        dev_bound: false,
    }
}

fn insns(bytes: &[u8]) -> io::Result<Vec<RawInsn>> {
    let (slots, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(invalid(format!("{} bytes of instructions", bytes.len())));
    }
    Ok(slots
        .iter()
        .map(|slot| RawInsn::from_bytes(*slot))
        .collect())
}

fn records(call: &Value, key: &str) -> io::Result<InfoRecords> {
    let bytes = hex(call, key)?;
    let rec_size = number(call, &format!("{key}_rec_size")) as u32;
    let count = (bytes.len() as u32).checked_div(rec_size).unwrap_or(0);
    Ok(InfoRecords {
        rec_size,
        count,
        bytes,
    })
}
