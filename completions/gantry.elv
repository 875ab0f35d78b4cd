
set edit:completion:arg-completer[gantry] = { |@words|
    var index = (count $words)
    set index = (- $index 1)

    put (env _CLAP_IFS="\n" _CLAP_COMPLETE_INDEX=(to-string $index) GANTRY_COMPLETE="elvish" gantry -- $@words) | to-lines
}

