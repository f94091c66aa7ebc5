//! Stand-in.
use super::{
    diagnostic::{Diagnostic, Diagnostics},
    source::{Source, Span},
    topology::{File, Item, Topology},
};
/// x
pub fn parse(sources: &Vec<Source>) -> Result<Topology, Diagnostics> {
    let mut t = Topology::default();
    for (i, s) in sources.iter().enumerate() {
        let f: File = toml::from_str(&s.text).map_err(|e| Diagnostics::from(vec![Diagnostic::new(e.to_string())]))?;
        t.name = f.topology.map_or_else(
            || std::path::Path::new(&s.path).file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            toml::Spanned::into_inner,
        );
        let file = i as u32;
        let sp = |r: std::ops::Range<usize>| Span { file, start: r.start as u32, end: r.end as u32 };
        for (k, v) in f.networks {
            t.networks.insert(k.get_ref().clone(), Item { value: v, file, name: sp(k.span()) });
        }
        for (k, v) in f.containers {
            t.containers.insert(k.get_ref().clone(), Item { value: v, file, name: sp(k.span()) });
        }
        for (k, v) in f.endpoints {
            t.endpoints.insert(k.get_ref().clone(), Item { value: v, file, name: sp(k.span()) });
        }
    }
    Ok(t)
}
