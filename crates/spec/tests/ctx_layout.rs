//! Every place that a conversion of the context tables names is in the built-in layout: programs load without the kernel's BTF.

use ring3_btf::layout;
use ring3_spec::Registry;
use ring3_spec::ctx::{CtxTable, Place, SOCKET_VIEWS, Step, table};
use ring3_uapi::ProgType;

fn places(ctx: &CtxTable) -> impl Iterator<Item = (String, Place)> {
    ctx.fields.iter().flat_map(|field| {
        let aliased = field.load_aliased.unwrap_or_default();
        let (tstamp, other) = field.with_tstamp_type.unwrap_or_default();
        let steps = [field.load, aliased, field.store, tstamp, other].concat();
        let name = format!("{:?} {}", field.reg, field.name);
        steps.into_iter().filter_map(move |step| match step {
            Step::Load { place, .. } | Step::Store { place, .. } => Some((name.clone(), place)),
            _ => None,
        })
    })
}

#[test]
fn every_place_is_in_the_built_in_layout() {
    let registry = Registry::linux_6_18();
    let views = ProgType::ALL.iter().filter_map(|&prog_type| {
        let row = registry.prog_type(prog_type);
        table(row.ctx)
    });
    let mut found = 0;
    for ctx in views.chain(SOCKET_VIEWS.iter()) {
        for (field, place) in places(ctx) {
            if place.type_name.is_empty() {
                continue;
            }
            let loc = layout::field(None, place.type_name, place.field);
            assert!(loc.is_some(), "{field}: {place:?}");
            found += 1;
        }
    }
    assert!(found > 300, "{found}");
}
