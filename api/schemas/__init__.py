"""What answers look like on the wire. Each noun has its module; bodies that users write are core/domain's own."""
