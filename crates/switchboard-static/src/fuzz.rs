//! The decoders, for the fuzz targets.

use crate::Format;
use crate::record::{Instances, to_url};

/// Reads `data` as a file in both formats and, if it is text, as a list in a URL, which is the same when it is written again.
pub fn list(data: &[u8]) {
    for format in [Format::Toml, Format::Json] {
        if let Err(mistake) = Instances::from_text(data, format) {
            assert!(!mistake.to_string().contains('\n'));
        }
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(list) = Instances::from_url(text) else { return };
    let snapshots = list.snapshots();
    let url = to_url(&snapshots);
    let again = Instances::from_url(&url["static:".len()..]).expect("what is written can be read");
    assert_eq!(again.snapshots(), snapshots);
}
